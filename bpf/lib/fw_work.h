/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * The long way keeps what it reads in a map of this CPU's own instead of on the stack: the verifier then
 * forgets, with every read, which path through the headers it came from, and follows what comes after once
 * instead of once for each path. Without it the program comes near the verifier's limit of a million steps.
 */
struct wm_fw_work {
	struct wm_packet packet;
	struct wm_flow_name name;
	struct wm_flow_name about; /* the flow that an ICMP error is about */
	struct wm_flow flow;       /* the one that is to be noted, or told of */
	__u32 reason;              /* of a drop */
	__u8 kind;                 /* WM_EVENT_… of what is to be told */
};

/* How a packet's way ends beside tc's verdicts, which are -1 and 2 here. */
#define WM_UNDECIDED 3 /* the long way is to decide */
#define WM_NOTE 4      /* passes when its new flow, in the work room, finds a place */
#define WM_DROP 5      /* is dropped for the reason in the work room */
#define WM_TELL 6      /* passes, and something about its flow is told */
#define WM_OPENS 7     /* the work room holds what may open a flow */

/* The work of this packet; NULL never happens, but the verifier cannot know. */
static __always_inline struct wm_fw_work *wm_fw_at_work(void)
{
	__u32 row = 0;
	struct wm_fw_room *room = fw_room.lookup(&row);

	_Static_assert(sizeof(struct wm_fw_work) <= sizeof(*room), "the room is too small");
	return (struct wm_fw_work *)room;
}

/* For another packet: empty, but for the name, which is written before it is read. */
static __always_inline struct wm_fw_work *wm_fw_work(void)
{
	struct wm_fw_work *work = wm_fw_at_work();

	if (!work)
		return NULL;
	__builtin_memset(&work->packet, 0, sizeof(work->packet));
	__builtin_memset(&work->flow, 0, sizeof(work->flow));
	work->reason = 0; /* of the packet before */
	work->kind = 0;
	return work;
}

static __always_inline int wm_fw_drop(struct wm_fw_work *work, __u32 reason)
{
	work->reason = reason;
	return WM_DROP;
}

/* Drop what this cell, which lets nothing through, decided about. */
static __always_inline int wm_fw_deny(struct wm_fw_work *work, __u8 cell)
{
	return wm_fw_drop(work, cell == WM_CELL_DENY ? WM_FW_DENYLIST : WM_FW_POLICY);
}
