/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/* A place in the table of flows for one that is new; see fw_table.h. */

#define WM_SCORE_UNUSED WM_WAYS /* after those that were used: so the slots in use stay close together */
#define WM_SCORE_TAKEN (2 * WM_WAYS)
#define WM_SCORE_NONE 0xFFFFFFFF

/* How good is each slot of a set for another flow? */
static __always_inline void wm_weigh(struct wm_flow_head *head, struct wm_flow_name *name, int which,
				     __u32 now)
{
#pragma unroll
	for (int way = 0; way < WM_WAYS; way++) {
		__u32 hold = *(volatile __u32 *)&head->holds[way], score = WM_SCORE_NONE, until;
		const struct wm_flow *flow;

		if (WM_IS_BUSY(hold))
			continue;
		until = *(volatile __u32 *)&head->ends[way];
		if (WM_HOLD_TAG(hold) && (__s32)(until - now) < 0) {
			flow = wm_flow_in(name->family, WM_HOLD_NUMBER(hold));
			if (flow)
				until = flow->expires;
			if ((__s32)(until - now) >= 0)
				*(volatile __u32 *)&head->ends[way] = until;
			else if (wm_hold_try(head, way, hold, WM_HOLD_FREE(hold)))
				hold = WM_HOLD_FREE(hold);
			else
				continue;
		}
		if (!WM_HOLD_TAG(hold)) {
			score = (hold ? 0 : WM_SCORE_UNUSED) + (way ^ name->way);
			(*(volatile __u8 *)&name->room[which])++;
		} else if (!(hold & WM_TAG_ANSWERED)) {
			score = WM_SCORE_TAKEN + (until - now); /* the oldest one makes way */
		}
		if (score < *(volatile __u32 *)&name->score[which]) {
			*(volatile __u32 *)&name->score[which] = score;
			*(volatile __u32 *)&name->seen[which] = hold;
			*(volatile __u8 *)&name->best[which] = way;
		}
	}
}

/* Choose a slot for a flow that has none: 0, or 1 for the other set's best; -1: no room. */
static __always_inline int wm_flow_choose(struct wm_flow_name *name, __u32 now)
{
	struct wm_flow_head *head = wm_head_of(name->family, name->sets[0]);

	if (head && wm_set_is_empty(head)) {
		name->best[0] = name->way;
		name->seen[0] = 0;
		return 0;
	}
#pragma unroll
	for (int which = 0; which < 2; which++) {
		name->score[which] = WM_SCORE_NONE;
		name->room[which] = 0;
		head = wm_head_of(name->family, name->sets[which]);
		if (head)
			wm_weigh(head, name, which, now);
		if (which == 0 && *(volatile __u8 *)&name->room[0] >= WM_ENOUGH_ROOM)
			return 0;
	}
	__u32 first = *(volatile __u32 *)&name->score[0], second = *(volatile __u32 *)&name->score[1];

	if (first == WM_SCORE_NONE && second == WM_SCORE_NONE)
		return -1;
	if (first < WM_SCORE_TAKEN && second < WM_SCORE_TAKEN)
		return *(volatile __u8 *)&name->room[1] > *(volatile __u8 *)&name->room[0];
	return second < first;
}

/*
 * Have the caches fetch the lines that a new flow is written to, all at once: an exchange waits until what was
 * written before it has found its line.
 */
static __always_inline void wm_flow_fetch(const struct wm_flow_name *name)
{
	bool four = name->family == WM_AF_INET;
	const struct wm_flow_head *head = wm_head_of(name->family, name->sets[0]);
	__u32 row = four ? 0 : 1;
	const __u64 *taken = fw_taken.lookup(&row), *slot;

	if (!head || !taken)
		return;
	(void)*(volatile const __u32 *)head;
	slot = four ? wm_slot4(*(volatile const __u64 *)taken) : wm_slot6(*(volatile const __u64 *)taken);
	if (slot)
		(void)*(volatile const __u64 *)slot;
}

/* The number of the slot that a holder has, or gets when it never had one; the holder is busy. */
static __always_inline __u32 wm_slot_of(__u32 seen, __u8 family)
{
	__u32 row = family == WM_AF_INET ? 0 : 1;
	__u64 *taken;

	if (seen)
		return WM_HOLD_NUMBER(seen);
	taken = fw_taken.lookup(&row);
	return taken ? (__u32)__sync_fetch_and_add(taken, 1) : 0xFFFFFFFF;
}

static __always_inline void wm_slot_write(__u64 *slot, const __u64 *words, int count,
					  const struct wm_flow *flow)
{
	*(volatile __u64 *)(slot + count - 1) = 0;
	wm_barrier();
	__builtin_memcpy(slot + count, flow, sizeof(*flow));
#pragma unroll
	for (int word = 0; word < count - 1; word++)
		slot[word] = words[word];
	wm_barrier();
	*(volatile __u64 *)(slot + count - 1) = words[count - 1];
}

/* Take the slot at name->place from whom it was seen with, and write; false when another was quicker. */
static __always_inline bool wm_flow_write(struct wm_flow_name *name, __u32 seen, const struct wm_flow *flow)
{
	struct wm_flow_head *head = wm_flow_head(name);
	__u32 way = wm_place_way(name), number;
	__u64 *slot;

	if (!head || WM_IS_BUSY(seen) || !wm_hold_swap(head, way, seen, WM_HOLD_BUSY(seen)))
		return false;
	number = wm_slot_of(seen, name->family);
	if (name->family == WM_AF_INET) {
		slot = wm_slot4(number);
		if (slot)
			wm_slot_write(slot, name->words, WM_KEY_WORDS4, flow);
	} else {
		slot = wm_slot6(number);
		if (slot)
			wm_slot_write(slot, name->words, WM_KEY_WORDS6, flow);
	}
	if (!slot) { /* never: there are as many slots as holders */
		wm_hold_give(head, way, seen);
		return false;
	}
	*(volatile __u32 *)&name->slot = number;
	wm_hold_until(head, way, flow->expires);
	wm_hold_give(head, way, WM_HOLD(number, name->tag));
	return true;
}

/*
 * Note a new flow, in the place of one of the same name if there is one; false: there is no room. When another
 * processor was quicker to take the slot, it may have noted the same flow.
 */
static __always_inline bool wm_flow_open(struct wm_flow_name *name, const struct wm_flow *flow, __u32 now)
{
	struct wm_flow_head *head;
	__u32 seen;
	int which;

#pragma clang loop unroll(disable)
	for (int attempt = 0; attempt < 2; attempt++) {
		if (attempt) {
			*(volatile __u8 *)&name->place = WM_NOWHERE;
			if (wm_flow_find(name))
				return true;
		}
		if (*(volatile __u8 *)&name->place == WM_NOWHERE) {
			which = wm_flow_choose(name, now);
			if (which < 0)
				return false;
			*(volatile __u8 *)&name->place = name->best[which & 1] + (which & 1) * WM_WAYS;
			seen = *(volatile __u32 *)&name->seen[which & 1];
		} else {
			head = wm_flow_head(name);
			if (!head)
				return false;
			seen = *(volatile __u32 *)&head->holds[wm_bounded(wm_place_way(name))];
			/* Of another flow since it was found? That one may be answered. */
			if (WM_HOLD_TAG(seen) && WM_HOLD_TAG(seen) != name->tag)
				continue;
		}
		if (wm_flow_write(name, seen, flow))
			return true;
	}
	return false;
}
