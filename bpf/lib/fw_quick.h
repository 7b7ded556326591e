/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * The short way for nearly every packet with nothing unusual in its headers. TCP or UDP of a flow that was
 * answered and that the policy in force has allowed passes after one look-up and one comparison. A SYN that policy
 * denies is dropped without looking at flows: it opens a connection whatever is known under its name, and a
 * flood of them must stay cheap. Whatever is not decided here goes the long way.
 */
/* What it reads of a transport header: ports, and TCP's flags. */
struct wm_quick_transport {
	__be16 source;
	__be16 dest;
	__u8 between[9];
	__u8 tcp_flags;
};

#define WM_QUICK_FLAGS (WM_TCP_FIN | WM_TCP_SYN | WM_TCP_RST | WM_TCP_ACK)

/* Is the flow of this slot the packet's, and may it pass without another judgement? Then count the packet. */
static __always_inline bool wm_quick_flow(struct __sk_buff *skb, __u64 *slot, const __u64 *words, int count,
					  __u8 protocol, __u32 direction, const struct wm_fw_state *state)
{
	struct wm_flow *flow = (struct wm_flow *)(slot + count);
	struct wm_verdict verdict;
	__u32 now;

	if (!wm_slot_holds(slot, words, count))
		return false;
	verdict = wm_flow_verdict(flow);
	now = wm_now();
	/* The key once more, last: when it is still the packet's, the verdict was its flow's. */
	if (verdict.generation != state->generation || !wm_fw_passes(verdict.cell, state) ||
	    (flow->state & (WM_FLOW_CLOSING | WM_FLOW_REPLIED)) != WM_FLOW_REPLIED ||
	    (__s32)(flow->expires - now) < 0 || wm_flow_mark(flow) != words[count - 1])
		return false;
	flow->expires = now + (protocol == IPPROTO_TCP ? WM_TICKS_ESTABLISHED : WM_TICKS_FRESH);
	wm_flow_note(flow, direction, skb->len);
	return true;
}

/* In the first set: the slot that is tried first, where most flows are, or the one with the right tag. */
static __always_inline int wm_quick_known4(struct __sk_buff *skb, const __u64 *words, __u8 protocol,
					   __u32 direction, const struct wm_fw_state *state)
{
	__u64 hash = wm_flow4_hash(words, state->seed);
	__u32 index = hash & (WM_FLOW_SETS4 - 1);
	struct wm_flow4_set *set = fw_flows4.lookup(&index);

	if (!set)
		return WM_UNDECIDED;
	wm_checked(set);
	if (wm_quick_flow(skb, set->slots + wm_bounded(wm_flow_way(hash)) * WM_SLOT_WORDS4, words,
			  WM_KEY_WORDS4, protocol, direction, state) ||
	    wm_quick_flow(skb,
			  set->slots + wm_bounded(wm_lowest(wm_tagged(&set->head, wm_flow_tag(hash)))) *
					       WM_SLOT_WORDS4,
			  words, WM_KEY_WORDS4, protocol, direction, state))
		return TC_ACT_UNSPEC;
	return WM_UNDECIDED;
}

static __always_inline int wm_quick_known6(struct __sk_buff *skb, const __u64 *words, __u8 protocol,
					   __u32 direction, const struct wm_fw_state *state)
{
	__u64 hash = wm_flow6_hash(words, state->seed);
	__u32 index = hash & (WM_FLOW_SETS6 - 1);
	struct wm_flow6_set *set = fw_flows6.lookup(&index);

	if (!set)
		return WM_UNDECIDED;
	wm_checked(set);
	if (wm_quick_flow(skb, set->slots + wm_bounded(wm_flow_way(hash)) * WM_SLOT_WORDS6, words,
			  WM_KEY_WORDS6, protocol, direction, state) ||
	    wm_quick_flow(skb,
			  set->slots + wm_bounded(wm_lowest(wm_tagged(&set->head, wm_flow_tag(hash)))) *
					       WM_SLOT_WORDS6,
			  words, WM_KEY_WORDS6, protocol, direction, state))
		return TC_ACT_UNSPEC;
	return WM_UNDECIDED;
}

/* A SYN, in the work room: dropped where policy denies it, noted where it opens a flow. */
static __always_inline int wm_quick_open(struct __sk_buff *skb, struct wm_fw_work *work, __u32 direction,
					 const struct wm_fw_state *state)
{
	const struct wm_packet *packet = &work->packet;
	const __be32 *remote = direction == WM_INGRESS ? packet->src : packet->dst;
	struct wm_verdict verdict = { .generation = state->generation, .direction = direction };
	struct wm_fw_peer peer;

	if (direction == WM_EGRESS ? skb->ingress_ifindex != 0
				   : !wm_local_holds(skb, wm_local_slot(packet->family, packet->dst),
						     packet->family, packet->dst))
		return WM_UNDECIDED;
	peer = wm_fw_peer(packet->family, remote, state);
	verdict.class = wm_fw_class(packet, packet->dport, direction, false, state);
	verdict.cell = wm_fw_cell(peer.row, verdict.class, direction, state);
	work->flow.verdict = verdict;
	work->flow.identity = peer.identity;
	work->flow.row = peer.row;
	if (verdict.cell == WM_CELL_ALLOW) {
		wm_flow_name(packet, direction, state->seed, &work->name);
		return wm_flow_find(&work->name) ? WM_UNDECIDED : WM_NOTE;
	}
	if (verdict.cell == WM_CELL_AUDIT ||
	    wm_fw_is_failsafe(packet, packet->dport, direction, peer.identity))
		return WM_UNDECIDED;
	wm_fw_judged(peer.row, verdict.class, direction, state->generation);
	return wm_fw_deny(work, verdict.cell);
}

/* Room for a SYN, unless the whole policy is of a kind that the long way is for. */
static __always_inline struct wm_fw_work *wm_quick_work(const struct wm_fw_state *state)
{
	if (!(state->flags & WM_FW_ENFORCE) || (state->flags & WM_FW_AUDIT))
		return NULL;
	return wm_fw_work();
}

static __always_inline void wm_quick_syn(struct wm_packet *packet, const struct wm_quick_transport *header)
{
	packet->l4 = WM_L4_PORTS;
	packet->protocol = IPPROTO_TCP;
	packet->sport = header->source;
	packet->dport = header->dest;
	packet->tcp_flags = header->tcp_flags;
}

/* What a transport header without anything unusual asks for: 0 a look-up, 1 an opening, -1 the long way. */
static __always_inline int wm_quick_kind(const struct wm_quick_transport *header, __u8 protocol)
{
	__u8 flags;

	if (protocol == IPPROTO_UDP)
		return 0;
	if (protocol != IPPROTO_TCP)
		return -1;
	flags = header->tcp_flags & WM_QUICK_FLAGS;
	return flags == WM_TCP_ACK ? 0 : flags == WM_TCP_SYN ? 1 : -1;
}

static __always_inline int wm_quick4(struct __sk_buff *skb, const struct iphdr *ip, __u32 direction,
				     const struct wm_fw_state *state)
{
	const struct wm_quick_transport *header = (const void *)(ip + 1);
	bool in = direction == WM_INGRESS;
	__u64 words[WM_KEY_WORDS4];
	int kind;

	if (ip->frag_off & bpf_htons(WM_IP_OFFSET | WM_IP_MORE))
		return WM_UNDECIDED;
	kind = wm_quick_kind(header, ip->protocol);
	if (kind < 0)
		return WM_UNDECIDED;
	if (kind) {
		struct wm_fw_work *work = wm_quick_work(state);

		if (!work)
			return WM_UNDECIDED;
		work->packet.family = WM_AF_INET;
		work->packet.src[0] = ip->saddr;
		work->packet.dst[0] = ip->daddr;
		wm_quick_syn(&work->packet, header);
		return wm_quick_open(skb, work, direction, state);
	}
	wm_flow4_words(in ? ip->saddr : ip->daddr, in ? ip->daddr : ip->saddr,
		       in ? header->source : header->dest, in ? header->dest : header->source, ip->protocol,
		       words);
	return wm_quick_known4(skb, words, ip->protocol, direction, state);
}

static __always_inline int wm_quick6(struct __sk_buff *skb, const struct ipv6hdr *ip, __u32 direction,
				     const struct wm_fw_state *state)
{
	const struct wm_quick_transport *header = (const void *)(ip + 1);
	const __be32 *source = ip->saddr.in6_u.u6_addr32, *dest = ip->daddr.in6_u.u6_addr32;
	bool in = direction == WM_INGRESS;
	__u64 words[WM_KEY_WORDS6];
	int kind = wm_quick_kind(header, ip->nexthdr);

	if (kind < 0)
		return WM_UNDECIDED;
	if (kind) {
		struct wm_fw_work *work = wm_quick_work(state);

		if (!work)
			return WM_UNDECIDED;
		work->packet.family = WM_AF_INET6;
		__builtin_memcpy(work->packet.src, source, sizeof(work->packet.src));
		__builtin_memcpy(work->packet.dst, dest, sizeof(work->packet.dst));
		wm_quick_syn(&work->packet, header);
		return wm_quick_open(skb, work, direction, state);
	}
	wm_flow6_words(in ? source : dest, in ? dest : source, in ? header->source : header->dest,
		       in ? header->dest : header->source, ip->nexthdr, words);
	return wm_quick_known6(skb, words, ip->nexthdr, direction, state);
}

/* A verdict of tc, or WM_UNDECIDED. */
static __always_inline int wm_fw_quick(struct __sk_buff *skb, bool l2, __u32 direction,
				       const struct wm_fw_state *state)
{
	const __u8 *end = (void *)(long)skb->data_end, *data = (void *)(long)skb->data;
	const __u8 *start = data + (l2 ? sizeof(struct ethhdr) : 0);
	/* Not skb->protocol: it says nothing about what follows a VLAN tag. */
	const __be16 *type = (const void *)(data + offsetof(struct ethhdr, h_proto));

	if (start + sizeof(struct iphdr) + sizeof(struct wm_quick_transport) > end)
		return WM_UNDECIDED;
	if (*start == 0x45 && (!l2 || *type == bpf_htons(ETH_P_IP)))
		return wm_quick4(skb, (const void *)start, direction, state);
	if (start + sizeof(struct ipv6hdr) + sizeof(struct wm_quick_transport) > end)
		return WM_UNDECIDED;
	if (*start >> 4 == 6 && (!l2 || *type == bpf_htons(ETH_P_IPV6)))
		return wm_quick6(skb, (const void *)start, direction, state);
	return WM_UNDECIDED;
}
