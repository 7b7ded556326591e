/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * The short way for nearly every packet with nothing unusual in its headers. TCP or UDP of a flow that was
 * answered and that the policy in force has allowed passes after one look-up and one comparison. A SYN that policy
 * denies is dropped without looking at flows: it opens a connection whatever is known under its name, and a
 * flood of them must stay cheap. Whatever is not decided here goes the long way.
 */
#define WM_QUICK_UNDECIDED 1 /* no verdict of tc: TC_ACT_UNSPEC is -1, TC_ACT_SHOT 2 */

/* The bytes it reads of a transport header: ports, and TCP's flags at 13. */
struct wm_quick_transport {
	struct wm_ports ports;
	__u8 between[9];
	__u8 tcp_flags;
} __attribute__((packed));

#define WM_QUICK_FLAGS (WM_TCP_FIN | WM_TCP_SYN | WM_TCP_RST | WM_TCP_ACK)

/* Count the packet, if its flow may pass without another judgement. */
static __always_inline bool wm_quick_flow(struct __sk_buff *skb, struct wm_flow *flow, __u8 protocol,
					  __u32 direction, const struct wm_fw_state *state)
{
	__u32 now;

	if (!flow || flow->generation != state->generation || (flow->state & WM_FLOW_CLOSING) ||
	    !wm_fw_passes(flow, state))
		return false;
	now = wm_now();
	if ((__s32)(flow->expires - now) < 0)
		return false;
	flow->expires = now + (protocol == IPPROTO_TCP ? WM_TICKS_ESTABLISHED : WM_TICKS_FRESH);
	wm_flow_note(flow, direction, skb->len);
	return true;
}

/* A SYN: dropped where policy denies it. */
static __always_inline int wm_quick_open(struct __sk_buff *skb, const struct wm_packet *packet,
					 __u32 direction, const struct wm_fw_state *state)
{
	const __be32 *remote = direction == WM_INGRESS ? packet->src : packet->dst;
	struct wm_fw_peer peer;
	__u16 class;
	__u8 cell;

	if (!(state->flags & WM_FW_ENFORCE) || (state->flags & WM_FW_AUDIT))
		return WM_QUICK_UNDECIDED;
	if (direction == WM_EGRESS ? skb->ingress_ifindex != 0
				   : !wm_local_holds(skb, wm_local_slot(packet->family, packet->dst),
						     packet->family, packet->dst))
		return WM_QUICK_UNDECIDED;
	peer = wm_fw_peer(packet->family, remote, state);
	class = wm_fw_class(packet, packet->dport, direction, false, state);
	cell = wm_fw_cell(peer.row, class, direction, state);
	if (cell == WM_CELL_ALLOW || cell == WM_CELL_AUDIT ||
	    wm_fw_is_failsafe(packet, packet->dport, direction))
		return WM_QUICK_UNDECIDED;
	wm_fw_judged(peer.row, class, direction, state);
	return wm_fw_deny(skb, direction, cell);
}

/* Read what the short way needs; false for anything unusual. */
static __always_inline const struct wm_quick_transport *wm_quick_parse(struct __sk_buff *skb, bool l2,
								       struct wm_packet *packet)
{
	const __u8 *end = (void *)(long)skb->data_end, *data = (void *)(long)skb->data;
	const __u8 *start = data + (l2 ? sizeof(struct ethhdr) : 0);
	const struct wm_quick_transport *header;

	if (start + sizeof(struct iphdr) + sizeof(*header) > end)
		return NULL;
	/* Not skb->protocol: it says nothing about what follows a VLAN tag. */
	if (*start == 0x45 &&
	    (!l2 || *(const __be16 *)(data + offsetof(struct ethhdr, h_proto)) == bpf_htons(ETH_P_IP))) {
		const struct iphdr *ip = (const void *)start;

		if (ip->frag_off & bpf_htons(WM_IP_OFFSET | WM_IP_MORE))
			return NULL;
		packet->family = WM_AF_INET;
		packet->protocol = ip->protocol;
		packet->src[0] = ip->saddr;
		packet->dst[0] = ip->daddr;
		return (const void *)(ip + 1);
	}
	if (*start >> 4 == 6 && start + sizeof(struct ipv6hdr) + sizeof(*header) <= end &&
	    (!l2 || *(const __be16 *)(data + offsetof(struct ethhdr, h_proto)) == bpf_htons(ETH_P_IPV6))) {
		const struct ipv6hdr *ip = (const void *)start;

		packet->family = WM_AF_INET6;
		packet->protocol = ip->nexthdr;
		__builtin_memcpy(packet->src, &ip->saddr, sizeof(packet->src));
		__builtin_memcpy(packet->dst, &ip->daddr, sizeof(packet->dst));
		return (const void *)(ip + 1);
	}
	return NULL;
}

/* Only the key that is needed is made: this is where every packet passes. */
static __always_inline struct wm_flow *wm_quick_find(const struct wm_packet *packet, __u32 direction)
{
	if (packet->family == WM_AF_INET) {
		struct wm_flow4_key key = {};

		wm_flow4_key(packet, direction, &key);
		return fw_flows4.lookup(&key);
	} else {
		struct wm_flow6_key key = {};

		wm_flow6_key(packet, direction, &key);
		return fw_flows6.lookup(&key);
	}
}

/* A verdict of tc, or WM_QUICK_UNDECIDED. */
static __always_inline int wm_fw_quick(struct __sk_buff *skb, bool l2, __u32 direction,
				       const struct wm_fw_state *state)
{
	struct wm_packet packet = { .l4 = WM_L4_PORTS };
	const struct wm_quick_transport *header = wm_quick_parse(skb, l2, &packet);

	if (!header || (packet.protocol != IPPROTO_TCP && packet.protocol != IPPROTO_UDP))
		return WM_QUICK_UNDECIDED;
	packet.sport = header->ports.source;
	packet.dport = header->ports.dest;
	if (packet.protocol == IPPROTO_TCP) {
		__u8 flags = header->tcp_flags & WM_QUICK_FLAGS;

		if (flags == WM_TCP_SYN)
			return wm_quick_open(skb, &packet, direction, state);
		if (flags != WM_TCP_ACK)
			return WM_QUICK_UNDECIDED;
	}
	if (wm_quick_flow(skb, wm_quick_find(&packet, direction), packet.protocol, direction, state))
		return TC_ACT_UNSPEC;
	return WM_QUICK_UNDECIDED;
}
