/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * What the observer learns of: openings, first answers, ends and drops, not packets. The ring never wakes anybody, it
 * is read by the clock; what finds it full, or is a drop beyond the rate, is counted.
 */

/* May one more drop for this reason be told on this processor in this tick? */
static __always_inline bool wm_may_tell(__u32 reason, __u32 limit)
{
	__u32 row = reason & 0xFF, now = wm_now();
	struct wm_fw_bucket *bucket = fw_buckets.lookup(&row);

	if (!bucket)
		return false;
	if (bucket->tick != now) {
		bucket->tick = now;
		bucket->used = 0;
	}
	return bucket->used++ < limit;
}

/* A helper that the oldest bcc we run with has no name for. */
static __u64 (*wm_coarse_time)(void) = (void *)160; /* BPF_FUNC_ktime_get_coarse_ns, Linux 5.11 */

/*
 * When it happened. The exact clock costs a packet as much as all the rest of its event. What comes from outside and
 * may come as a flood, openings and drops, is told with the time of the kernel's last tick, at most ten
 * milliseconds ago; a flow's later events are never before it. Openings of ours are exact, because their round trip
 * is measured.
 */
static __always_inline __u64 wm_event_time(__u8 kind, __u32 opened)
{
	if (kind == WM_EVENT_DROP || (kind == WM_EVENT_NEW && opened == WM_INGRESS))
		return wm_coarse_time();
	return bpf_ktime_get_ns();
}

static __always_inline void wm_fw_tell(struct __sk_buff *skb, __u32 direction, const struct wm_fw_work *work,
				       __u8 kind, __u32 reason)
{
	const struct wm_packet *packet = &work->packet;
	const struct wm_flow *flow = &work->flow;
	struct wm_fw_watch *watch;
	struct wm_event *event;
	__u32 row = 0;

	watch = fw_watch.lookup(&row);
	if (!watch || !watch->told)
		return;
	if (kind == WM_EVENT_DROP) {
		if (!wm_may_tell(reason, watch->drops)) {
			wm_fw_count(skb, direction, WM_WITHHELD, 0);
			return;
		}
	} else if (watch->sample > 1 && work->name.mix % watch->sample) {
		return; /* by the flow's name, so that all of its events are told or none */
	}
	event = fw_events.ringbuf_reserve(sizeof(*event));
	if (!event) {
		wm_fw_count(skb, direction, WM_LOST, 0);
		return;
	}
	event->time = wm_event_time(kind, flow->verdict.direction);
	__builtin_memcpy(event->src, packet->src, sizeof(event->src));
	__builtin_memcpy(event->dst, packet->dst, sizeof(event->dst));
	event->bytes[0] = flow->bytes[0];
	event->bytes[1] = flow->bytes[1];
	event->packets[0] = flow->packets[0];
	event->packets[1] = flow->packets[1];
	event->identity = flow->identity;
	event->row = flow->row;
	event->generation = flow->verdict.generation;
	event->ifindex = skb->ifindex;
	event->place = work->name.slot;
	event->sport = packet->sport;
	event->dport = packet->dport;
	event->class = flow->verdict.class;
	event->kind = kind;
	event->reason = reason;
	event->direction = direction;
	event->opened = flow->verdict.direction;
	event->cell = flow->verdict.cell;
	event->state = flow->state;
	event->family = packet->family;
	event->protocol = packet->protocol;
	event->tcp_flags = packet->tcp_flags;
	event->icmp_type = packet->icmp_type;
	event->icmp_code = packet->icmp_code;
	event->pad[0] = event->pad[1] = event->pad[2] = 0;
	fw_events.ringbuf_submit(event, BPF_RB_NO_WAKEUP);
}
