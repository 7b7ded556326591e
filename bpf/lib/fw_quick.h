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

/* Who may hold the flow of this hash in a set: the holder that is tried first, where most flows are, or the first one
 * with the right tag; 0: nobody. */
static __always_inline __u32 wm_quick_hold(const struct wm_flow_head *head, __u64 hash)
{
	__u32 hold = head->holds[wm_bounded(wm_flow_way(hash))], tag = wm_flow_tag(hash), tagged;

	if (WM_HOLD_TAG(hold) == tag)
		return hold;
	tagged = wm_tagged(head, tag);
	return tagged ? head->holds[wm_bounded(wm_lowest(tagged))] : 0;
}

/* The same in the first set or, where it may be there, in the other one. mask: of the table's sets. */
static __always_inline __u32 wm_quick_holder(__u8 family, __u64 hash, __u32 mask)
{
	__u32 set = hash & mask, hold;
	struct wm_flow_head *head = wm_head_of(family, set);

	if (!head)
		return 0;
	hold = wm_quick_hold(head, hash);
	if (hold || wm_set_is_young(head))
		return hold;
	head = wm_head_of(family, wm_other_set(set, wm_flow_mix(hash)) & mask);
	return head ? wm_quick_hold(head, hash) : 0;
}

static __always_inline int wm_quick_known4(struct __sk_buff *skb, const __u64 *words, __u8 protocol,
					   __u32 direction, const struct wm_fw_state *state)
{
	__u64 hash = wm_flow4_hash(words, state->seed), *slot;
	__u32 hold = wm_quick_holder(WM_AF_INET, hash, WM_FLOW_SETS(WM_FLOW_BITS4) - 1);

	if (!hold)
		return WM_UNDECIDED;
	slot = wm_slot4(WM_HOLD_NUMBER(hold));
	if (slot && wm_quick_flow(skb, slot, words, WM_KEY_WORDS4, protocol, direction, state))
		return TC_ACT_UNSPEC;
	return WM_UNDECIDED;
}

static __always_inline int wm_quick_known6(struct __sk_buff *skb, const __u64 *words, __u8 protocol,
					   __u32 direction, const struct wm_fw_state *state)
{
	__u64 hash = wm_flow6_hash(words, state->seed), *slot;
	__u32 hold = wm_quick_holder(WM_AF_INET6, hash, WM_FLOW_SETS(WM_FLOW_BITS6) - 1);

	if (!hold)
		return WM_UNDECIDED;
	slot = wm_slot6(WM_HOLD_NUMBER(hold));
	if (slot && wm_quick_flow(skb, slot, words, WM_KEY_WORDS6, protocol, direction, state))
		return TC_ACT_UNSPEC;
	return WM_UNDECIDED;
}

/*
 * What may open a flow, in the work room: dropped where policy denies it, noted where it opens one. A SYN opens a
 * connection whatever is known under its name, so a denied one needs no look at flows; a datagram may be an answer.
 */
static __always_inline int wm_quick_open(struct __sk_buff *skb, struct wm_fw_work *work, __u32 direction,
					 const struct wm_fw_state *state)
{
	const struct wm_packet *packet = &work->packet;
	const __be32 *remote = direction == WM_INGRESS ? packet->src : packet->dst;
	struct wm_verdict verdict = { .generation = state->generation, .direction = direction };
	bool datagram = packet->protocol == IPPROTO_UDP;
	struct wm_fw_peer peer;

	if (direction == WM_EGRESS ? skb->ingress_ifindex != 0
				   : !wm_local_holds(skb, wm_local_slot(packet->family, packet->dst),
						     packet->family, packet->dst))
		return WM_UNDECIDED;
	if (datagram && wm_fw_is_tunnel(skb, packet, direction))
		return WM_UNDECIDED;
	peer = wm_fw_peer(packet->family, remote, state);
	verdict.class = wm_fw_class(packet, packet->dport, direction, false, state);
	verdict.cell = wm_fw_cell(peer.row, verdict.class, direction, state);
	work->flow.verdict = verdict;
	work->flow.identity = peer.identity;
	work->flow.row = peer.row;
	if (datagram || verdict.cell == WM_CELL_ALLOW) {
		wm_flow_name(packet, direction, state->seed, &work->name);
		if (verdict.cell == WM_CELL_ALLOW)
			wm_flow_fetch(&work->name);
		if (wm_flow_find(&work->name))
			return WM_UNDECIDED;
		if (verdict.cell == WM_CELL_ALLOW)
			return WM_NOTE;
	}
	if (verdict.cell == WM_CELL_AUDIT ||
	    wm_fw_is_failsafe(packet, packet->dport, direction, peer.identity, state))
		return WM_UNDECIDED;
	wm_fw_judged(peer.row, verdict.class, direction, state->generation);
	return wm_fw_deny(work, verdict.cell);
}

/* Room for what may open a flow, unless the whole policy is of a kind that the long way is for. */
static __always_inline struct wm_fw_work *wm_quick_work(const struct wm_fw_state *state,
							const struct wm_quick_transport *header, __u8 family,
							__u8 protocol)
{
	struct wm_fw_work *work;

	if (!(state->flags & WM_FW_ENFORCE) || (state->flags & WM_FW_AUDIT))
		return NULL;
	work = wm_fw_work();
	if (!work)
		return NULL;
	work->packet.l4 = WM_L4_PORTS;
	work->packet.family = family;
	work->packet.protocol = protocol;
	work->packet.sport = header->source;
	work->packet.dport = header->dest;
	if (protocol == IPPROTO_TCP)
		work->packet.tcp_flags = header->tcp_flags;
	return work;
}

/* What a transport header without anything unusual asks for. */
enum wm_quick_kind {
	WM_QUICK_NOT,
	WM_QUICK_KNOWN,
	WM_QUICK_OPENS,
	WM_QUICK_EITHER
};

static __always_inline enum wm_quick_kind wm_quick_kind(const struct wm_quick_transport *header,
							__u8 protocol)
{
	__u8 flags;

	if (protocol == IPPROTO_UDP)
		return WM_QUICK_EITHER;
	if (protocol != IPPROTO_TCP)
		return WM_QUICK_NOT;
	flags = header->tcp_flags & WM_QUICK_FLAGS;
	return flags == WM_TCP_ACK ? WM_QUICK_KNOWN : flags == WM_TCP_SYN ? WM_QUICK_OPENS : WM_QUICK_NOT;
}

/* TC_ACT_UNSPEC for a packet of a known flow, WM_OPENS when the work room holds what may open one. */
static __always_inline int wm_quick4(struct __sk_buff *skb, const struct iphdr *ip, __u32 direction,
				     const struct wm_fw_state *state)
{
	const struct wm_quick_transport *header = (const void *)(ip + 1);
	bool in = direction == WM_INGRESS;
	__u64 words[WM_KEY_WORDS4];
	struct wm_fw_work *work;
	enum wm_quick_kind kind;

	if (ip->frag_off & bpf_htons(WM_IP_OFFSET | WM_IP_MORE))
		return WM_UNDECIDED;
	kind = wm_quick_kind(header, ip->protocol);
	if (kind == WM_QUICK_NOT)
		return WM_UNDECIDED;
	if (kind != WM_QUICK_OPENS) {
		wm_flow4_words(in ? ip->saddr : ip->daddr, in ? ip->daddr : ip->saddr,
			       in ? header->source : header->dest, in ? header->dest : header->source,
			       ip->protocol, words);
		if (wm_quick_known4(skb, words, ip->protocol, direction, state) == TC_ACT_UNSPEC)
			return TC_ACT_UNSPEC;
		if (kind == WM_QUICK_KNOWN)
			return WM_UNDECIDED;
	}
	work = wm_quick_work(state, header, WM_AF_INET, ip->protocol);
	if (!work)
		return WM_UNDECIDED;
	work->packet.src[0] = ip->saddr;
	work->packet.dst[0] = ip->daddr;
	return WM_OPENS;
}

static __always_inline int wm_quick6(struct __sk_buff *skb, const struct ipv6hdr *ip, __u32 direction,
				     const struct wm_fw_state *state)
{
	const struct wm_quick_transport *header = (const void *)(ip + 1);
	const __be32 *source = ip->saddr.in6_u.u6_addr32, *dest = ip->daddr.in6_u.u6_addr32;
	enum wm_quick_kind kind = wm_quick_kind(header, ip->nexthdr);
	bool in = direction == WM_INGRESS;
	__u64 words[WM_KEY_WORDS6];
	struct wm_fw_work *work;

	if (kind == WM_QUICK_NOT)
		return WM_UNDECIDED;
	if (kind != WM_QUICK_OPENS) {
		wm_flow6_words(in ? source : dest, in ? dest : source, in ? header->source : header->dest,
			       in ? header->dest : header->source, ip->nexthdr, words);
		if (wm_quick_known6(skb, words, ip->nexthdr, direction, state) == TC_ACT_UNSPEC)
			return TC_ACT_UNSPEC;
		if (kind == WM_QUICK_KNOWN)
			return WM_UNDECIDED;
	}
	work = wm_quick_work(state, header, WM_AF_INET6, ip->nexthdr);
	if (!work)
		return WM_UNDECIDED;
	__builtin_memcpy(work->packet.src, source, sizeof(work->packet.src));
	__builtin_memcpy(work->packet.dst, dest, sizeof(work->packet.dst));
	return WM_OPENS;
}

/* A known flow, or an opening, by the headers; else WM_UNDECIDED. */
static __always_inline int wm_quick_look(struct __sk_buff *skb, bool l2, __u32 direction,
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

/* A verdict of tc, or WM_UNDECIDED. */
static __always_inline int wm_fw_quick(struct __sk_buff *skb, bool l2, __u32 direction,
				       const struct wm_fw_state *state)
{
	int verdict = wm_quick_look(skb, l2, direction, state);
	struct wm_fw_work *work;

	if (verdict != WM_OPENS)
		return verdict;
	work = wm_fw_at_work();
	return work ? wm_quick_open(skb, work, direction, state) : WM_UNDECIDED;
}
