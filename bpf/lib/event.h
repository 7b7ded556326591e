/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/* What guard and firewall tell an observer; the agent's copy is agent/wardmesh/datapath/event_contract.py. */

/* Reasons of what is not told. */
#define WM_LOST 69     /* an event that found the ring full */
#define WM_WITHHELD 70 /* an event of a drop beyond the rate that was asked for */

/* What the observer asks for. sample: one in so many flows; drops: events of one reason on one processor in a
 * tick. Nothing is told while told is 0. */
struct wm_fw_watch {
	__u32 told;
	__u32 sample;
	__u32 drops;
	__u32 pad;
};

/* How many events of a reason this tick has had. */
struct wm_fw_bucket {
	__u32 tick;
	__u32 used;
};

#define WM_EVENT_NEW 1      /* a flow was opened */
#define WM_EVENT_ANSWERED 2 /* its first answer came */
#define WM_EVENT_CLOSING 3  /* its first FIN, or RST */
#define WM_EVENT_DROP 4     /* a packet was dropped */

/* One event, as it lies in the ring; addresses and ports are the packet's. */
struct wm_event {
	__u64 time; /* CLOCK_MONOTONIC, ns */
	__be32 src[4];
	__be32 dst[4];
	__u64 bytes[2]; /* of the flow up to now */
	__u32 packets[2];
	__u32 identity; /* of the peer */
	__u32 row;
	__u32 generation;
	__u32 ifindex;
	__u32 place; /* the number of the flow's slot in its table */
	__be16 sport;
	__be16 dport;
	__u16 class;
	__u8 kind; /* WM_EVENT_… */
	__u8 reason;
	__u8 direction; /* of the packet */
	__u8 opened;    /* direction of the flow's first packet */
	__u8 cell;
	__u8 state;
	__u8 family;
	__u8 protocol;
	__u8 tcp_flags;
	__u8 icmp_type;
	__u8 icmp_code;
	__u8 pad[3];
};

/* bcc has no macro for a ring that is pinned already. */
#define WM_RING(name)                                                                                        \
	struct name##_table_t {                                                                              \
		int key;                                                                                     \
		u32 leaf;                                                                                    \
		int (*ringbuf_output)(void *, u64, u64);                                                     \
		void *(*ringbuf_reserve)(u64);                                                               \
		void (*ringbuf_discard)(void *, u64);                                                        \
		void (*ringbuf_submit)(void *, u64);                                                         \
		u32 max_entries;                                                                             \
	};                                                                                                   \
	__attribute__((section("maps/ringbuf:" WM_MAPS                                                       \
			       "/events"))) struct name##_table_t name = { .max_entries = 4096 }
