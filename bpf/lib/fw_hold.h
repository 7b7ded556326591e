/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/* Who holds a slot of the table of flows, and until when; see fw_table.h. */

/* Attempts: the number beside it shares the word that is exchanged, and may change meanwhile. */
#define WM_SWAPS 3

/* Where a place is: the index of its set; the first set's for WM_NOWHERE. */
static __always_inline __u32 wm_flow_set(const struct wm_flow_name *name)
{
	__u8 place = *(volatile __u8 *)&name->place;

	return place >= WM_WAYS && place != WM_NOWHERE ? name->sets[1] : name->sets[0];
}

/* The head of the set at name->place. */
static __always_inline struct wm_flow_head *wm_flow_head(const struct wm_flow_name *name)
{
	return wm_head_of(name->family, wm_flow_set(name));
}

static __always_inline __u32 wm_place_way(const struct wm_flow_name *name)
{
	return *(volatile __u8 *)&name->place & (WM_WAYS - 1);
}

static __always_inline void wm_hold_until(struct wm_flow_head *head, __u32 way, __u32 until)
{
	*(volatile __u32 *)&head->ends[wm_bounded(way)] = until;
}

/*
 * Let a holder be another, if it is the one that was seen. Two holders to a word: an exchange of four bytes needs a
 * newer compiler than one of eight.
 */
static __always_inline bool wm_hold_try(struct wm_flow_head *head, __u32 way, __u32 seen, __u32 next)
{
	__u64 bounded = wm_bounded(way), word, *pair = (__u64 *)head->holds + (bounded >> 1);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
	__u32 shift = (bounded & 1) * 32;
#else
	__u32 shift = (~bounded & 1) * 32;
#endif

	word = *(volatile __u64 *)pair;
	return (__u32)(word >> shift) == seen &&
	       __sync_val_compare_and_swap(pair, word, word ^ (__u64)(seen ^ next) << shift) == word;
}

static __always_inline bool wm_hold_swap(struct wm_flow_head *head, __u32 way, __u32 seen, __u32 next)
{
#pragma unroll
	for (int attempt = 0; attempt < WM_SWAPS; attempt++) {
		if (wm_hold_try(head, way, seen, next))
			return true;
	}
	return false;
}

/* Only who made it busy may do this. */
static __always_inline void wm_hold_give(struct wm_flow_head *head, __u32 way, __u32 hold)
{
	wm_barrier();
	*(volatile __u32 *)&head->holds[wm_bounded(way)] = hold;
}

/* The last word of the key before this flow; the one that is cleared first when the slot is taken for another. */
static __always_inline __u64 wm_flow_mark(const struct wm_flow *flow)
{
	return *((const volatile __u64 *)flow - 1);
}

static __always_inline __u64 wm_name_mark(const struct wm_flow_name *name)
{
	return name->family == WM_AF_INET ? name->words[WM_KEY_WORDS4 - 1] : name->words[WM_KEY_WORDS6 - 1];
}

/* Take the slot at name->place for a change of its verdict: who held it, to be given back; 0: it is another's. */
static __always_inline __u32 wm_flow_claim(struct wm_flow_name *name, const struct wm_flow *flow)
{
	struct wm_flow_head *head = wm_flow_head(name);
	__u32 way = wm_place_way(name), hold;

	if (!head)
		return 0;
	hold = *(volatile __u32 *)&head->holds[wm_bounded(way)];
	if (WM_HOLD_TAG(hold) != name->tag || WM_IS_BUSY(hold) ||
	    !wm_hold_swap(head, way, hold, WM_HOLD_BUSY(hold)))
		return 0;
	if (wm_flow_mark(flow) == wm_name_mark(name))
		return hold;
	wm_hold_give(head, way, hold);
	return 0;
}

static __always_inline void wm_flow_release(struct wm_flow_name *name, __u32 hold)
{
	struct wm_flow_head *head = wm_flow_head(name);

	if (head)
		wm_hold_give(head, wm_place_way(name), hold);
}

/* From now on the slot is this flow's until that tick, unless another has taken it. */
static __always_inline void wm_flow_keep(struct wm_flow_name *name, bool answered, __u32 until)
{
	struct wm_flow_head *head = wm_flow_head(name);
	__u32 way = wm_place_way(name), hold;

	if (!head)
		return;
	hold = *(volatile __u32 *)&head->holds[wm_bounded(way)];
	if (WM_HOLD_TAG(hold) != name->tag)
		return;
	wm_hold_until(head, way, until);
	if (answered && !WM_IS_BUSY(hold))
		wm_hold_swap(head, way, hold, hold | WM_TAG_ANSWERED);
}
