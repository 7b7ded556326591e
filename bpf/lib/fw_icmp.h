/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * ICMP that policy does not decide: what IPv6 cannot live without (RFC 4890 and upstream's table,
 * icmp6_host_handle), "fragmentation needed", and errors about a flow that is known.
 */
#define WM_ICMP_TIME_EXCEEDED 11
#define WM_ICMP_PARAMETER 12

enum wm_icmp6_kind {
	WM_ICMP6_PASS,
	WM_ICMP6_JUDGE,
	WM_ICMP6_FORBID
};

/* Routers' renumbering (138) and everything that is not allocated ends here; upstream's reason is 176. */
static __always_inline enum wm_icmp6_kind wm_icmp6_kind(__u8 type)
{
	if ((type >= 1 && type <= 4) || (type >= 130 && type <= 136) || (type >= 141 && type <= 143) ||
	    type == 148 || type == 149 || (type >= 151 && type <= 153))
		return WM_ICMP6_PASS;
	if (type == WM_ICMP6_ECHO || type == WM_ICMP6_ECHO_REPLY)
		return WM_ICMP6_JUDGE;
	return WM_ICMP6_FORBID;
}

static __always_inline bool wm_icmp_frag_needed(const struct wm_packet *packet)
{
	return packet->protocol == IPPROTO_ICMP && packet->family == WM_AF_INET && packet->icmp_type == 3 &&
	       packet->icmp_code == 4;
}

static __always_inline bool wm_icmp_is_error(const struct wm_packet *packet)
{
	return packet->protocol == IPPROTO_ICMP && packet->family == WM_AF_INET &&
	       (packet->icmp_type == 3 || packet->icmp_type == WM_ICMP_TIME_EXCEEDED ||
		packet->icmp_type == WM_ICMP_PARAMETER);
}

/* An IPv4 error carries the header of the packet that it is about; its flow, as seen from this host. */
static __always_inline bool wm_icmp_related(struct __sk_buff *skb, const struct wm_packet *packet,
					    __u32 direction, __u64 seed, struct wm_flow_name *name)
{
	struct wm_flow4_key key = {};
	struct iphdr room;
	struct wm_ports ports_room;
	const struct wm_ports *ports;
	const struct wm_flow *flow;
	const struct iphdr *inner = wm_ipv4(skb, packet->l4_offset + 8, &room);
	bool sent_by_us = direction == WM_INGRESS; /* an error that comes in is about what went out */
	__u32 offset;

	if (!inner || inner->version != 4 || inner->ihl < 5)
		return false;
	offset = packet->l4_offset + 8 + inner->ihl * 4;
	key.protocol = inner->protocol;
	key.remote = sent_by_us ? inner->daddr : inner->saddr;
	key.local = sent_by_us ? inner->saddr : inner->daddr;
	if (wm_has_ports(key.protocol)) {
		ports = wm_transport(skb, offset, &ports_room);
		if (!ports)
			return false;
		if (key.protocol == IPPROTO_ICMP) {
			ports = wm_transport(skb, offset + 4, &ports_room);
			if (!ports)
				return false;
			key.rport = key.lport = ports->source;
		} else {
			key.rport = sent_by_us ? ports->dest : ports->source;
			key.lport = sent_by_us ? ports->source : ports->dest;
		}
	}
	name->family = WM_AF_INET;
	wm_flow4_words(key.remote, key.local, key.rport, key.lport, key.protocol, name->words);
	wm_flow_places(name, seed);
	flow = wm_flow_find(name);
	return flow && (__s32)(flow->expires - wm_now()) >= 0;
}
