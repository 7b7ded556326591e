/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/* What the guard counts, and what it tells of the packets that it drops. Only drops pay for it. */

#define WM_SECOND_SHIFT 30 /* 2^30 ns: near enough to a second for a limit */

static __always_inline void wm_count(struct __sk_buff *skb, __u32 direction, __u32 reason)
{
	__u32 row = WM_METRIC_ROW(reason, direction);
	struct wm_metric *metric = metrics.lookup(&row);

	if (metric) {
		metric->packets++;
		metric->bytes += skb->len;
	}
}

/* May one more drop for this reason be told on this processor in this second? */
static __always_inline bool wm_may_tell_drop(__u32 reason, __u32 limit)
{
	__u32 row = reason & 0xFF, now = bpf_ktime_get_ns() >> WM_SECOND_SHIFT;
	struct wm_fw_bucket *bucket = buckets.lookup(&row);

	if (!bucket)
		return false;
	if (bucket->tick != now) {
		bucket->tick = now;
		bucket->used = 0;
	}
	return bucket->used++ < limit;
}

static __always_inline void wm_tell_drop(struct __sk_buff *skb, __u32 direction, __u32 reason,
					 const struct wm_packet *packet, __u32 peer)
{
	struct wm_fw_watch *asked;
	struct wm_event *event;
	__u32 row = 0;

	asked = watch.lookup(&row);
	if (!asked || !asked->told)
		return;
	if (!wm_may_tell_drop(reason, asked->drops)) {
		wm_count(skb, direction, WM_WITHHELD);
		return;
	}
	event = events.ringbuf_reserve(sizeof(*event));
	if (!event) {
		wm_count(skb, direction, WM_LOST);
		return;
	}
	__builtin_memset(event, 0, sizeof(*event));
	event->time = bpf_ktime_get_ns();
	__builtin_memcpy(event->src, packet->src, sizeof(event->src));
	__builtin_memcpy(event->dst, packet->dst, sizeof(event->dst));
	event->identity = peer;
	event->ifindex = skb->ifindex;
	event->sport = packet->sport;
	event->dport = packet->dport;
	event->kind = WM_EVENT_DROP;
	event->reason = reason;
	event->direction = direction;
	event->family = packet->family;
	event->protocol = packet->protocol;
	event->tcp_flags = packet->tcp_flags;
	event->icmp_type = packet->icmp_type;
	event->icmp_code = packet->icmp_code;
	events.ringbuf_submit(event, BPF_RB_NO_WAKEUP);
}
