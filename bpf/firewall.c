/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */

/*
 * The host's firewall: what policy says about packets to and from the host itself, on physical devices and
 * on the tunnel. It stands beside the guard and knows nothing of it: a packet needs both.
 *
 * Order: the tunnel's own packets, fragments, ICMP that cannot be judged, flows that are known, failsafe,
 * policy. A known flow costs one look-up and one comparison; when the generation of the policy is another
 * than the flow's, it is judged again.
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
#include "lib/fw_contract.h"
#include "lib/fw_maps.h"
#include "lib/parse.h"
#include "lib/routed.h"
#include "lib/fw_local.h"
#include "lib/fw_policy.h"
#include "lib/fw_table.h"
#include "lib/fw_hold.h"
#include "lib/fw_open.h"
#include "lib/fw_flows.h"
#include "lib/fw_work.h"
#include "lib/fw_icmp.h"
#include "lib/fw_tunnel.h"
#include "lib/fw_older.h"
#include "lib/fw_count.h"
#include "lib/fw_events.h"
#include "lib/fw_quick.h"

/* What cannot be judged is dropped once somebody wants packets to be judged. */
static __always_inline int wm_fw_unless_enforced(struct wm_fw_work *work, __u32 reason,
						 const struct wm_fw_state *state)
{
	if (!(state->flags & WM_FW_ENFORCE) || (state->flags & WM_FW_AUDIT))
		return TC_ACT_UNSPEC;
	return wm_fw_drop(work, reason);
}

/* Ports of a later fragment from the first one's note; false when there is none. */
static __always_inline bool wm_fw_reassemble(struct wm_packet *packet)
{
	struct wm_fragment_key key = { .id = packet->fragment_id, .protocol = packet->protocol };
	struct wm_fragment_ports ports = { .source = packet->sport, .dest = packet->dport }, *noted;

	__builtin_memcpy(key.src, packet->src, sizeof(key.src));
	__builtin_memcpy(key.dst, packet->dst, sizeof(key.dst));
	if (packet->l4 == WM_L4_PORTS) {
		fw_fragments.update(&key, &ports);
		return true;
	}
	noted = fw_fragments.lookup(&key);
	if (!noted)
		return false;
	packet->sport = noted->source;
	packet->dport = noted->dest;
	packet->l4 = WM_L4_PORTS;
	return true;
}

/* Look up peer, class and cell for a flow that was opened in the direction that its verdict says. */
static __always_inline struct wm_verdict wm_fw_judge(const struct wm_packet *packet, __u32 seen,
						     struct wm_flow *flow, __u32 opened,
						     const struct wm_fw_state *state)
{
	const __be32 *remote = seen == WM_INGRESS ? packet->src : packet->dst;
	/* The port that the flow was opened to: our packet's destination, or its source in an answer. */
	__be16 port = opened == seen ? packet->dport : packet->sport;
	struct wm_fw_peer peer = wm_fw_peer(packet->family, remote, state);
	struct wm_verdict verdict = { .generation = state->generation, .direction = opened };

	flow->identity = peer.identity;
	flow->row = peer.row;
	verdict.class = wm_fw_class(packet, port, opened, opened != seen, state);
	verdict.cell = wm_fw_cell(peer.row, verdict.class, opened, state);
	flow->state &= ~WM_FLOW_FAILSAFE;
	if (verdict.cell != WM_CELL_ALLOW && wm_fw_is_failsafe(packet, port, opened, peer.identity, state)) {
		verdict.cell = WM_CELL_ALLOW;
		flow->state |= WM_FLOW_FAILSAFE;
	}
	return verdict;
}

static __always_inline __u32 wm_fw_reason(const struct wm_flow *flow)
{
	if (flow->state & WM_FLOW_FAILSAFE)
		return WM_FW_FAILSAFE;
	return flow->verdict.cell == WM_CELL_ALLOW ? WM_FW_ALLOWED : WM_FW_AUDITED;
}

/* A packet of no known flow. keep: whether it opens one. */
static __always_inline int wm_fw_new(struct __sk_buff *skb, struct wm_fw_work *work, __u32 direction,
				     bool keep, const struct wm_fw_state *state)
{
	const struct wm_packet *packet = &work->packet;
	struct wm_flow *flow = &work->flow;

	if (direction == WM_EGRESS ? skb->ingress_ifindex != 0 : !wm_is_local(skb, packet))
		return wm_fw_count(skb, direction, WM_FORWARDED, TC_ACT_UNSPEC);
	flow->verdict = wm_fw_judge(packet, direction, flow, direction, state);
	if (!wm_fw_passes(flow->verdict.cell, state) && keep && wm_fw_is_older(skb, packet, direction)) {
		__u32 other = direction == WM_INGRESS ? WM_EGRESS : WM_INGRESS;
		struct wm_flow opened = {};

		opened.verdict = wm_fw_judge(packet, direction, &opened, other, state);
		if (wm_fw_passes(opened.verdict.cell, state))
			*flow = opened;
	}
	if (wm_fw_passes(flow->verdict.cell, state) && keep)
		return WM_NOTE;
	wm_fw_judged(flow->row, flow->verdict.class, flow->verdict.direction, state->generation);
	if (!wm_fw_passes(flow->verdict.cell, state))
		return wm_fw_deny(work, flow->verdict.cell);
	return wm_fw_count(skb, direction, wm_fw_reason(flow), TC_ACT_UNSPEC);
}

/* What tc does not do: note a new flow, count and tell. */
static __always_inline int wm_fw_finish(struct __sk_buff *skb, __u32 direction, int verdict)
{
	struct wm_fw_work *work = wm_fw_at_work();
	__u8 kind = WM_EVENT_DROP;
	__u32 reason, now = wm_now();

	if (!work)
		return TC_ACT_SHOT;
	reason = work->reason;
	if (verdict == WM_NOTE) {
		wm_fw_judged(work->flow.row, work->flow.verdict.class, work->flow.verdict.direction,
			     work->flow.verdict.generation);
		wm_flow_note(&work->flow, direction, skb->len);
		work->flow.expires = now + WM_TICKS_FRESH;
		reason = WM_FW_CT_FULL;
		if (wm_flow_open(&work->name, &work->flow, now)) {
			reason = wm_fw_reason(&work->flow);
			kind = WM_EVENT_NEW;
		}
	} else if (verdict == WM_TELL) {
		kind = work->kind;
	}
	if (verdict != WM_TELL)
		wm_fw_count(skb, direction, reason, 0);
	wm_fw_tell(skb, direction, work, kind, reason);
	return kind == WM_EVENT_DROP ? TC_ACT_SHOT : TC_ACT_UNSPEC;
}

/* Judge a flow again, because the policy has changed. */
static __always_inline struct wm_verdict wm_fw_again(const struct wm_packet *packet, __u32 direction,
						     struct wm_flow_name *name, struct wm_flow *flow,
						     __u32 opened, const struct wm_fw_state *state)
{
	struct wm_flow fresh = {};
	struct wm_verdict verdict = wm_fw_judge(packet, direction, &fresh, opened, state);
	__u32 hold = wm_flow_claim(name, flow);

	if (hold) {
		flow->identity = fresh.identity;
		flow->row = fresh.row;
		flow->state = (flow->state & ~WM_FLOW_FAILSAFE) | fresh.state;
		wm_flow_judged(flow, verdict);
		wm_flow_release(name, flow->state & WM_FLOW_REPLIED ? hold | WM_TAG_ANSWERED : hold);
	}
	wm_fw_judged(fresh.row, verdict.class, opened, verdict.generation);
	return verdict;
}

/* A packet of a known flow; WM_UNDECIDED when it is not known any more. */
static __always_inline int wm_fw_known(struct __sk_buff *skb, struct wm_fw_work *work, __u32 direction,
				       struct wm_flow *flow, __u32 now, const struct wm_fw_state *state)
{
	const struct wm_packet *packet = &work->packet;
	struct wm_flow_name *name = &work->name;
	int ends = TC_ACT_UNSPEC;
	struct wm_verdict verdict = wm_flow_verdict(flow);

	if (wm_flow_mark(flow) != wm_name_mark(name))
		return WM_UNDECIDED; /* taken for another flow since it was found */
	if (verdict.generation != state->generation)
		verdict = wm_fw_again(packet, direction, name, flow, verdict.direction, state);
	if (!wm_fw_passes(verdict.cell, state)) {
		work->flow = *flow;
		work->flow.verdict = verdict;
		return wm_fw_deny(work, verdict.cell);
	}
	wm_flow_note(flow, direction, skb->len);
	if (packet->protocol == IPPROTO_TCP && (packet->tcp_flags & (WM_TCP_FIN | WM_TCP_RST)) &&
	    !(flow->state & WM_FLOW_CLOSING)) {
		flow->state |= WM_FLOW_CLOSING;
		wm_flow_keep(name, false, now + WM_TICKS_CLOSING);
		work->kind = WM_EVENT_CLOSING;
		ends = WM_TELL;
	}
	if (verdict.direction != direction && !(flow->state & WM_FLOW_REPLIED)) {
		flow->state |= WM_FLOW_REPLIED;
		wm_flow_keep(name, true, now + wm_flow_ticks(packet, flow));
		work->kind = WM_EVENT_ANSWERED;
		ends = WM_TELL;
	}
	flow->expires = now + wm_flow_ticks(packet, flow);
	if (ends == WM_TELL)
		work->flow = *flow;
	return ends;
}

/* A SYN opens a connection, whatever was known under its name: otherwise an old entry would let it in. So does
 * an echo request that comes the way of the answers. */
static __always_inline bool wm_fw_reopens(const struct wm_packet *packet, const struct wm_flow *flow,
					  __u32 direction)
{
	if (wm_is_icmp(packet))
		return wm_icmp_is_request(packet) != (flow->verdict.direction == direction);
	if (packet->protocol != IPPROTO_TCP || (packet->tcp_flags & (WM_TCP_SYN | WM_TCP_ACK)) != WM_TCP_SYN)
		return false;
	return flow->verdict.direction != direction || (flow->state & (WM_FLOW_CLOSING | WM_FLOW_REPLIED));
}

/* ICMP: 1 = goes on to flows and policy, else the verdict. Echoes are flows, named by their id. */
static __always_inline int wm_fw_icmp(struct __sk_buff *skb, struct wm_fw_work *work, __u32 direction,
				      bool *keep, const struct wm_fw_state *state)
{
	struct wm_packet *packet = &work->packet;
	const struct wm_ports *id;
	struct wm_ports room;

	if (packet->family == WM_AF_INET6 && packet->protocol == IPPROTO_ICMPV6) {
		enum wm_icmp6_kind kind = wm_icmp6_kind(packet->icmp_type);

		if (kind == WM_ICMP6_PASS)
			return TC_ACT_UNSPEC;
		if (kind == WM_ICMP6_FORBID)
			return wm_fw_unless_enforced(work, WM_FW_ICMP6, state);
	} else if (wm_icmp_frag_needed(packet)) {
		return TC_ACT_UNSPEC;
	} else if (wm_icmp_is_error(packet) &&
		   wm_icmp_related(skb, packet, direction, state->seed, &work->about)) {
		return TC_ACT_UNSPEC;
	}
	*keep = wm_icmp_is_request(packet) || wm_icmp_is_answer(packet);
	if (!*keep)
		return 1;
	id = wm_transport(skb, packet->l4_offset + 4, &room);
	if (!id)
		return wm_fw_unless_enforced(work, WM_INVALID, state);
	packet->sport = packet->dport = id->source;
	return 1;
}

/* The long way: every packet that the short one does not know. */
static __always_inline int wm_fw_examine(struct __sk_buff *skb, bool l2, __u32 direction,
					 const struct wm_fw_state *policy)
{
	struct wm_fw_work *work = wm_fw_work();
	struct wm_packet *packet;
	bool keep = true;

	if (!work)
		return TC_ACT_SHOT;
	packet = &work->packet;
	wm_parse_network(skb, l2, packet);
	if (!packet->family)
		return TC_ACT_UNSPEC;
	wm_parse_transport(skb, packet);
	if (packet->l4 == WM_L4_BROKEN)
		return wm_fw_unless_enforced(work, WM_INVALID, policy);
	if (direction == WM_EGRESS && wm_fw_is_tunnel(skb, packet, direction))
		return TC_ACT_UNSPEC;
	if (packet->fragmented && wm_has_ports(packet->protocol) && !wm_fw_reassemble(packet))
		return wm_fw_unless_enforced(work, WM_FW_FRAGMENT, policy);
	/* Only here: the later fragments of an incoming one are known by the ports of the first. */
	if (direction == WM_INGRESS && wm_fw_is_tunnel(skb, packet, direction))
		return TC_ACT_UNSPEC;
	if (packet->l4 == WM_L4_PORTS && packet->protocol == IPPROTO_TCP && !packet->fragmented &&
	    !wm_parse_tcp(skb, packet))
		return wm_fw_unless_enforced(work, WM_INVALID, policy);
	if (packet->l4 == WM_L4_PORTS && wm_is_icmp(packet)) {
		int verdict = wm_fw_icmp(skb, work, direction, &keep, policy);

		if (verdict != 1)
			return verdict;
	}
	if (keep) {
		__u32 now = wm_now();
		struct wm_flow *flow;

		wm_flow_name(packet, direction, policy->seed, &work->name);
		flow = wm_flow_find(&work->name);
		if (flow && (__s32)(flow->expires - now) >= 0 && !wm_fw_reopens(packet, flow, direction)) {
			int verdict = wm_fw_known(skb, work, direction, flow, now, policy);

			if (verdict != WM_UNDECIDED)
				return verdict;
			work->name.place = WM_NOWHERE;
		}
		/* An answer that nobody asked for is judged by itself and opens nothing. */
		if (wm_is_icmp(packet) && !wm_icmp_is_request(packet))
			keep = false;
	}
	return wm_fw_new(skb, work, direction, keep, policy);
}

static __always_inline int wm_firewall(struct __sk_buff *skb, bool l2, __u32 direction)
{
	__u32 row = 0;
	struct wm_fw_state *state = fw_state.lookup(&row);
	int verdict;

	if (!state)
		return TC_ACT_UNSPEC;
	struct wm_fw_state policy = *state; /* one policy for the whole packet */

	verdict = wm_fw_quick(skb, l2, direction, &policy);
	if (verdict == WM_UNDECIDED)
		verdict = wm_fw_examine(skb, l2, direction, &policy);
	if (verdict == WM_NOTE || verdict == WM_DROP || verdict == WM_TELL)
		verdict = wm_fw_finish(skb, direction, verdict);
	return verdict;
}

int egress_l2(struct __sk_buff *skb)
{
	return wm_firewall(skb, true, WM_EGRESS);
}

int egress_l3(struct __sk_buff *skb)
{
	return wm_firewall(skb, false, WM_EGRESS);
}

int ingress_l2(struct __sk_buff *skb)
{
	return wm_firewall(skb, true, WM_INGRESS);
}

int ingress_l3(struct __sk_buff *skb)
{
	return wm_firewall(skb, false, WM_INGRESS);
}
