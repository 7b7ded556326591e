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
	struct wm_flow flow;       /* the one that is to be noted */
};

/* The work of this packet; NULL never happens, but the verifier cannot know. */
static __always_inline struct wm_fw_work *wm_fw_at_work(void)
{
	__u32 row = 0;
	struct wm_fw_room *room = fw_room.lookup(&row);

	_Static_assert(sizeof(struct wm_fw_work) <= sizeof(*room), "the room is too small");
	return (struct wm_fw_work *)room;
}

/* With an empty packet and an empty flow. */
static __always_inline struct wm_fw_work *wm_fw_work(void)
{
	struct wm_fw_work *work = wm_fw_at_work();

	if (!work)
		return NULL;
	__builtin_memset(&work->packet, 0, sizeof(work->packet));
	__builtin_memset(&work->flow, 0, sizeof(work->flow));
	return work;
}
