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
};

/* Empty; NULL never happens, but the verifier cannot know. */
static __always_inline struct wm_fw_work *wm_fw_work(void)
{
	__u32 row = 0;
	struct wm_fw_room *room = fw_room.lookup(&row);

	_Static_assert(sizeof(struct wm_fw_work) <= sizeof(*room), "the room is too small");
	if (room)
		__builtin_memset(room, 0, sizeof(struct wm_fw_work));
	return (struct wm_fw_work *)room;
}
