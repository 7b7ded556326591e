/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */

/*
 * The guard on a physical device: what is to or from a member passes inside the tunnel, or, once
 * that member is strict, not at all.
 *
 * A packet that passes is left to the next filter (TC_ACT_UNSPEC), a forbidden one ends here. What
 * passes from a member gets the tunnel's mark, so that the reverse path check of the kernel looks at
 * the main routing table, where this device is the right one, and not at the tunnel's.
 */
#include <uapi/linux/bpf.h>
#include <uapi/linux/if_ether.h>
#include <uapi/linux/in.h>
#include <uapi/linux/in6.h>
#include <uapi/linux/ip.h>
#include <uapi/linux/ipv6.h>
#include <uapi/linux/pkt_cls.h>

#include "lib/contract.h"
#include "lib/event.h"
#include "lib/maps.h"
#include "lib/parse.h"
#include "lib/ipcache.h"
#include "lib/exempt.h"
#include "lib/routed.h"
#include "lib/tell.h"

/*
 * What is read of a packet lies in a map of this CPU's own instead of on the stack: the verifier then forgets,
 * with every read, which path through the headers it came from, and follows what comes after once instead of
 * once for each path. On the stack it took half of the million steps that the verifier allows. NULL never
 * happens, but the verifier cannot know.
 */
static __always_inline struct wm_packet *wm_packet_room(void)
{
	__u32 row = 0;
	struct wm_room *found = room.lookup(&row);

	_Static_assert(sizeof(struct wm_packet) <= sizeof(*found), "the room is too small");
	if (!found)
		return NULL;
	__builtin_memset(found, 0, sizeof(struct wm_packet));
	return (struct wm_packet *)found;
}

/* The barrier keeps the compiler from turning this into a one-byte store, which the kernel refuses. */
static __always_inline void wm_set_mark(struct __sk_buff *skb)
{
	__u32 mark = skb->mark;

	mark = (mark & ~WM_MARK_MASK) | WM_MARK;
	asm volatile("" : "+r"(mark));
	skb->mark = mark;
}

/* Every verdict about a member leaves through here and is counted; the peer is the member. */
static __always_inline int wm_verdict(struct __sk_buff *skb, __u32 direction, __u32 reason,
				      struct wm_packet *packet, __u32 peer)
{
	wm_count(skb, direction, reason);
	if (reason == WM_UNENCRYPTED || reason == WM_INVALID) {
		if (packet->protocol == IPPROTO_TCP && packet->l4 == WM_L4_PORTS)
			wm_parse_tcp(skb, packet);
		wm_tell_drop(skb, direction, reason, packet, peer);
		return TC_ACT_SHOT;
	}
	if (direction == WM_INGRESS)
		wm_set_mark(skb);
	return TC_ACT_UNSPEC;
}

static __always_inline bool wm_is_listen_port(const struct wm_config *settings, __be16 port)
{
	return port && (port == settings->ports[0] || port == settings->ports[1]);
}

/* WireGuard sends from its port and with its mark; only the first fragment shows the port. */
static __always_inline bool wm_tunnel_sent(const struct __sk_buff *skb, const struct wm_packet *packet,
					   const struct wm_config *settings)
{
	if (packet->protocol != IPPROTO_UDP || (skb->mark & WM_MARK_MASK) != WM_MARK)
		return false;
	return packet->l4 == WM_L4_FRAGMENT || wm_is_listen_port(settings, packet->sport);
}

/* A later fragment alone is never delivered, so it passes; what starts with another port ends below. */
static __always_inline bool wm_tunnel_received(const struct wm_packet *packet,
					       const struct wm_config *settings)
{
	if (packet->protocol != IPPROTO_UDP)
		return false;
	return packet->l4 == WM_L4_FRAGMENT || wm_is_listen_port(settings, packet->dport);
}

static __always_inline bool wm_is_group_address(const struct wm_packet *packet)
{
	__u32 first = bpf_ntohl(packet->dst[0]);

	if (packet->family == WM_AF_INET)
		return (first >> 28) == 14 || first == 0xFFFFFFFF;
	return (first >> 24) == 0xFF;
}

/* A packet that came in elsewhere and keeps a foreign sender (a NATed one has ours) is routed traffic. */
static __always_inline bool wm_came_through(const struct __sk_buff *skb, const struct wm_packet *packet,
					    const struct wm_config *settings)
{
	struct wm_ipcache_value *sender;

	if (!skb->ingress_ifindex)
		return false;
	sender = wm_identify(packet->family, packet->src, settings);
	return !sender || !(sender->flags & WM_SELF);
}

static __always_inline __u32 wm_outside_tunnel(const struct wm_packet *packet, bool strict)
{
	if (!strict)
		return WM_PLAINTEXT;
	return packet->l4 == WM_L4_BROKEN ? WM_INVALID : WM_UNENCRYPTED;
}

static __always_inline __u32 wm_reason_egress(struct __sk_buff *skb, const struct wm_packet *packet,
					      const struct wm_config *settings, bool strict)
{
	if (packet->l4 != WM_L4_BROKEN) {
		if (wm_tunnel_sent(skb, packet, settings))
			return WM_TUNNEL;
		if (wm_exempt(packet, settings))
			return WM_EXEMPT;
	}
	if (wm_came_through(skb, packet, settings))
		return WM_FORWARDED;
	return wm_outside_tunnel(packet, strict);
}

static __always_inline __u32 wm_reason_ingress(struct __sk_buff *skb, const struct wm_packet *packet,
					       const struct wm_config *settings, bool strict)
{
	if (packet->l4 != WM_L4_BROKEN) {
		if (wm_tunnel_received(packet, settings))
			return WM_TUNNEL;
		if (wm_exempt(packet, settings) || wm_is_group_address(packet))
			return WM_EXEMPT;
	}
	if (strict && wm_routed_on(skb, packet))
		return WM_FORWARDED;
	return wm_outside_tunnel(packet, strict);
}

/* The kernel answers an ARP request only when the reverse path check agrees to its sender. */
static __always_inline void wm_mark_arp(struct __sk_buff *skb, const struct wm_packet *packet,
					const struct wm_config *settings)
{
	struct wm_ipcache_value *peer = wm_identify4(packet->src[0], settings);

	if (peer && (peer->flags & WM_MEMBER))
		wm_set_mark(skb);
}

static __always_inline int wm_guard(struct __sk_buff *skb, bool l2, __u32 direction)
{
	struct wm_ipcache_value *peer;
	struct wm_config *settings;
	struct wm_packet *packet;
	__u32 row = 0, reason;
	bool strict;

	packet = wm_packet_room();
	settings = config.lookup(&row);
	if (!packet || !settings)
		return TC_ACT_UNSPEC;
	wm_parse_network(skb, l2, packet);
	if (!packet->family) {
		if (direction == WM_INGRESS && packet->arp)
			wm_mark_arp(skb, packet, settings);
		return TC_ACT_UNSPEC;
	}
	peer = wm_identify(packet->family, direction == WM_EGRESS ? packet->dst : packet->src, settings);
	if (!peer || !(peer->flags & WM_MEMBER))
		return TC_ACT_UNSPEC;
	strict = peer->flags & WM_STRICT;
	wm_parse_transport(skb, packet);
	if (direction == WM_EGRESS)
		reason = wm_reason_egress(skb, packet, settings, strict);
	else
		reason = wm_reason_ingress(skb, packet, settings, strict);
	return wm_verdict(skb, direction, reason, packet, peer->identity);
}

int egress_l2(struct __sk_buff *skb)
{
	return wm_guard(skb, true, WM_EGRESS);
}

int egress_l3(struct __sk_buff *skb)
{
	return wm_guard(skb, false, WM_EGRESS);
}

int ingress_l2(struct __sk_buff *skb)
{
	return wm_guard(skb, true, WM_INGRESS);
}

int ingress_l3(struct __sk_buff *skb)
{
	return wm_guard(skb, false, WM_INGRESS);
}
