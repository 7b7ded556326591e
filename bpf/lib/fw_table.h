/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * The table of flows. A flow has a set by its hash and another one by its tag, eight slots each; it is put where
 * more room is, so that the sets fill evenly. One that was answered is never displaced: when both sets
 * are full of such, there is no room, and the caller drops. One that was not answered makes way for a newer one,
 * and one whose time is over for anybody.
 *
 * Processors write at the same time. Who takes a slot first makes it busy by compare-and-exchange; the
 * last word of its key is cleared before anything else in it changes and written after everything else. So a
 * reader that finds its key before and after it read the verdict has the verdict of its flow.
 */
#define WM_NOWHERE 0xFF
#define WM_ENOUGH_ROOM 4 /* free slots of the first set that save a look at the other one */
#define WM_SCORE_FREE WM_WAYS
#define WM_SCORE_NONE 0xFFFFFFFF
#define WM_KEY_WORDS4 2
#define WM_KEY_WORDS6 5

#define wm_barrier() asm volatile("" ::: "memory")
/* The compiler must not calculate with a pointer before it was compared with NULL: the verifier refuses that. */
#define wm_checked(pointer) asm volatile("" : "+r"(pointer))

_Static_assert(sizeof(struct wm_flow4_key) + sizeof(struct wm_flow) <= WM_SLOT_WORDS4 * 8,
	       "a slot is too small");
_Static_assert(sizeof(struct wm_flow6_key) + sizeof(struct wm_flow) <= WM_SLOT_WORDS6 * 8,
	       "a slot is too small");
_Static_assert(sizeof(struct wm_flow4_key) == WM_KEY_WORDS4 * 8, "an IPv4 key is two words");
_Static_assert(sizeof(struct wm_flow6_key) == WM_KEY_WORDS6 * 8, "an IPv6 key is five words");

#define WM_HOLD(tag, until) ((__u64)(until) << 32 | (tag))
#define WM_HOLD_TAG(hold) ((__u32)(hold))
#define WM_HOLD_UNTIL(hold) ((__u32)((hold) >> 32))

/* A slot's number right before it is used: older verifiers forget the bounds of what was spilled to the stack. */
static __always_inline __u64 wm_bounded(__u64 way)
{
	asm volatile("%0 &= 7" : "+r"(way));
	return way;
}

/* A flow's key and its places. It lies in the memory of a map, where the verifier does not follow it. */
struct wm_flow_name {
	__u64 words[WM_KEY_WORDS6]; /* the key as it lies in a slot */
	__u64 seen[2];              /* who holds the best slot of each set */
	__u32 sets[2];
	__u32 tag;
	__u32 score[2]; /* of that slot, less is better */
	__u8 best[2];
	__u8 room[2]; /* free slots of each set */
	__u8 family;
	__u8 way;   /* the slot that is tried first */
	__u8 place; /* where it was found: 0 to 7 in the first set, 8 to 15 in the other, or WM_NOWHERE */
};

static __always_inline __u64 wm_hash_step(__u64 hash, __u64 word)
{
	hash = (hash ^ word) * 0x9E3779B97F4A7C15ULL;
	return hash ^ hash >> 32;
}

static __always_inline __u64 wm_flow4_hash(const __u64 *words, __u64 seed)
{
	return wm_hash_step(wm_hash_step(seed, words[0]), words[1]);
}

static __always_inline __u64 wm_flow6_hash(const __u64 *words, __u64 seed)
{
	__u64 hash = wm_hash_step(wm_hash_step(seed, words[0]), words[1]);

	return wm_hash_step(wm_hash_step(wm_hash_step(hash, words[2]), words[3]), words[4]);
}

static __always_inline __u32 wm_flow_way(__u64 hash)
{
	return hash >> 61;
}

/* Neither empty nor busy. */
static __always_inline __u32 wm_flow_tag(__u64 hash)
{
	return ((__u32)(hash >> 24) & ~(__u32)WM_TAG_ANSWERED) | 2;
}

static __always_inline void wm_flow_places(struct wm_flow_name *name, __u64 seed)
{
	bool four = name->family == WM_AF_INET;
	__u64 hash = four ? wm_flow4_hash(name->words, seed) : wm_flow6_hash(name->words, seed);
	__u32 mask = four ? WM_FLOW_SETS4 - 1 : WM_FLOW_SETS6 - 1;

	name->tag = wm_flow_tag(hash);
	name->way = wm_flow_way(hash);
	name->sets[0] = hash & mask;
	name->sets[1] = (name->sets[0] ^ ((name->tag * 0x9E3779B1U) >> 8 | 1)) & mask;
	name->place = WM_NOWHERE;
}

static __always_inline bool wm_slot_holds(const __u64 *slot, const __u64 *words, int count)
{
#pragma unroll
	for (int word = 0; word < count; word++) {
		if (slot[word] != words[word])
			return false;
	}
	return true;
}

/*
 * 1 for 0, 0 for everything else. What the compiler makes of ! is a branch, and the verifier follows each way; so it
 * must not see what this is.
 */
static __always_inline __u32 wm_is_zero(__u64 number)
{
	__u64 negative = -number;

	asm volatile("" : "+r"(negative));
	return (__u32)((number | negative) >> 63) ^ 1;
}

/* A bit for each slot with this tag. */
static __always_inline __u32 wm_tagged(const struct wm_flow_head *head, __u32 tag)
{
	__u32 found = 0;

#pragma unroll
	for (int way = 0; way < WM_WAYS; way++)
		found |= wm_is_zero((WM_HOLD_TAG(head->holds[way]) & ~(__u32)WM_TAG_ANSWERED) ^ tag) << way;
	return found;
}

/* The number of the lowest bit of eight; 0 if there is none. */
static __always_inline __u32 wm_lowest(__u32 bits)
{
	__u32 bit = bits & -bits;

	return ((bit >> 1 | bit >> 3 | bit >> 5 | bit >> 7) & 1) |
	       ((bit >> 2 | bit >> 3 | bit >> 6 | bit >> 7) & 1) << 1 |
	       ((bit >> 4 | bit >> 5 | bit >> 6 | bit >> 7) & 1) << 2;
}

/* Two slots of a set may have one tag, once in a hundred million flows; three of them never meet. */
static __always_inline void wm_look_in(const struct wm_flow_head *head, int slot_words, int key_words,
				       struct wm_flow_name *name, __u8 base)
{
	const __u64 *slots = (const __u64 *)(head + 1);
	__u32 tagged = wm_tagged(head, name->tag), way;

#pragma unroll
	for (int look = 0; look < 2; look++) {
		if (!tagged)
			return;
		way = wm_lowest(tagged);
		if (wm_slot_holds(slots + wm_bounded(way) * slot_words, name->words, key_words)) {
			*(volatile __u8 *)&name->place = base + way;
			return;
		}
		tagged &= tagged - 1;
	}
}

/* Where a place is: the index of its set; the first set's for WM_NOWHERE. */
static __always_inline __u32 wm_flow_set(const struct wm_flow_name *name)
{
	__u8 place = *(volatile __u8 *)&name->place;

	return place >= WM_WAYS && place != WM_NOWHERE ? name->sets[1] : name->sets[0];
}

/* The head of the set at name->place, and nothing behind it. */
static __always_inline struct wm_flow_head *wm_flow_head(const struct wm_flow_name *name)
{
	__u32 index = wm_flow_set(name);

	if (name->family == WM_AF_INET)
		return (struct wm_flow_head *)fw_flows4.lookup(&index);
	return (struct wm_flow_head *)fw_flows6.lookup(&index);
}

/* The flow at name->place. */
static __always_inline struct wm_flow *wm_flow_found(const struct wm_flow_name *name)
{
	__u32 place = *(volatile __u8 *)&name->place, way = place & (WM_WAYS - 1), index = wm_flow_set(name);

	if (place == WM_NOWHERE)
		return NULL;
	if (name->family == WM_AF_INET) {
		struct wm_flow4_set *set = fw_flows4.lookup(&index);

		if (!set)
			return NULL;
		wm_checked(set);
		return (struct wm_flow *)(set->slots + wm_bounded(way) * WM_SLOT_WORDS4 + WM_KEY_WORDS4);
	} else {
		struct wm_flow6_set *set = fw_flows6.lookup(&index);

		if (!set)
			return NULL;
		wm_checked(set);
		return (struct wm_flow *)(set->slots + wm_bounded(way) * WM_SLOT_WORDS6 + WM_KEY_WORDS6);
	}
}

/* Are half of its slots as they were in the beginning? A slot that was used once is never empty again, so none of
 * the set's flows was ever put into another one. */
static __always_inline bool wm_set_is_young(const struct wm_flow_head *head)
{
	__u32 empty = 0;

#pragma unroll
	for (int way = 0; way < WM_WAYS; way++)
		empty += wm_is_zero(head->holds[way]);
	return empty >= WM_ENOUGH_ROOM;
}

/* Was none of its slots ever used? On a host with few flows that is so for most sets, and known at once. */
static __always_inline bool wm_set_is_empty(const struct wm_flow_head *head)
{
	__u64 held = 0;

#pragma unroll
	for (int way = 0; way < WM_WAYS; way++)
		held |= head->holds[way];
	return !held;
}

/* Note where the flow is; NULL and WM_NOWHERE where it is not. */
static __always_inline struct wm_flow *wm_flow_find(struct wm_flow_name *name)
{
	bool four = name->family == WM_AF_INET;

#pragma unroll
	for (int which = 0; which < 2; which++) {
		__u32 index = name->sets[which];
		const void *set;

		if (four) {
			set = fw_flows4.lookup(&index);
			if (set && wm_set_is_empty(set))
				return NULL;
			if (set)
				wm_look_in(set, WM_SLOT_WORDS4, WM_KEY_WORDS4, name, which * WM_WAYS);
		} else {
			set = fw_flows6.lookup(&index);
			if (set && wm_set_is_empty(set))
				return NULL;
			if (set)
				wm_look_in(set, WM_SLOT_WORDS6, WM_KEY_WORDS6, name, which * WM_WAYS);
		}
		if (!set || *(volatile __u8 *)&name->place != WM_NOWHERE || wm_set_is_young(set))
			break;
	}
	return wm_flow_found(name);
}

/* Have the caches fetch the lines that a new flow will most likely be written to, both at once. */
static __always_inline void wm_flow_fetch(const struct wm_flow_name *name)
{
	__u32 index = name->sets[0];
	const __u64 *slot, *head;

	if (name->family == WM_AF_INET) {
		struct wm_flow4_set *set = fw_flows4.lookup(&index);

		if (!set)
			return;
		wm_checked(set);
		head = (const __u64 *)set;
		slot = set->slots + wm_bounded(name->way) * WM_SLOT_WORDS4;
	} else {
		struct wm_flow6_set *set = fw_flows6.lookup(&index);

		if (!set)
			return;
		wm_checked(set);
		head = (const __u64 *)set;
		slot = set->slots + wm_bounded(name->way) * WM_SLOT_WORDS6;
	}
	(void)*(volatile const __u64 *)head;
	(void)*(volatile const __u64 *)slot;
}

/* How good is a slot for another flow? */
static __always_inline void wm_weigh(struct wm_flow_head *head, int slot_words, int key_words,
				     struct wm_flow_name *name, int which, __u32 now)
{
	const __u64 *slots = (const __u64 *)(head + 1);

#pragma unroll
	for (int way = 0; way < WM_WAYS; way++) {
		__u64 hold = *(volatile __u64 *)&head->holds[way];
		__u32 tag = WM_HOLD_TAG(hold), until = WM_HOLD_UNTIL(hold), score = WM_SCORE_NONE;
		bool free = !tag;

		if (tag == WM_TAG_BUSY)
			continue;
		if (tag && (__s32)(until - now) < 0) {
			const struct wm_flow *flow = (const void *)(slots + way * slot_words + key_words);

			until = flow->expires;
			free = (__s32)(until - now) < 0;
			if (!free)
				__sync_val_compare_and_swap(&head->holds[way], hold, WM_HOLD(tag, until));
		}
		if (free) {
			score = way ^ name->way; /* the line beside the first one comes next */
			(*(volatile __u8 *)&name->room[which])++;
		} else if (!(tag & WM_TAG_ANSWERED)) {
			score = WM_SCORE_FREE + (until - now); /* the oldest one makes way */
		}
		if (score < *(volatile __u32 *)&name->score[which]) {
			*(volatile __u32 *)&name->score[which] = score;
			*(volatile __u64 *)&name->seen[which] = hold;
			*(volatile __u8 *)&name->best[which] = way;
		}
	}
}

/* Choose a slot for a flow that has none: 0, or 1 for the other set's best; -1: no room. */
static __always_inline int wm_flow_choose(struct wm_flow_name *name, __u32 now)
{
	bool four = name->family == WM_AF_INET;
	struct wm_flow_head *head;

	name->place = WM_NOWHERE; /* wm_flow_head: the first set */
	head = wm_flow_head(name);
	if (head && !head->holds[name->way & (WM_WAYS - 1)] && wm_set_is_young(head)) {
		name->best[0] = name->way;
		name->seen[0] = 0;
		return 0;
	}
#pragma unroll
	for (int which = 0; which < 2; which++) {
		__u32 index = name->sets[which];
		void *set;

		name->score[which] = WM_SCORE_NONE;
		name->room[which] = 0;
		if (four) {
			set = fw_flows4.lookup(&index);
			if (set)
				wm_weigh(set, WM_SLOT_WORDS4, WM_KEY_WORDS4, name, which, now);
		} else {
			set = fw_flows6.lookup(&index);
			if (set)
				wm_weigh(set, WM_SLOT_WORDS6, WM_KEY_WORDS6, name, which, now);
		}
		if (which == 0 && *(volatile __u8 *)&name->room[0] >= WM_ENOUGH_ROOM)
			return 0;
	}
	__u32 first = *(volatile __u32 *)&name->score[0], second = *(volatile __u32 *)&name->score[1];

	if (first == WM_SCORE_NONE && second == WM_SCORE_NONE)
		return -1;
	if (first < WM_SCORE_FREE && second < WM_SCORE_FREE)
		return *(volatile __u8 *)&name->room[1] > *(volatile __u8 *)&name->room[0];
	return second < first;
}

/* Take a slot from whom it was seen with, and write; false when another was quicker. */
static __always_inline bool wm_slot_write(struct wm_flow_head *head, int slot_words, int key_words,
					  const struct wm_flow_name *name, __u64 seen,
					  const struct wm_flow *flow)
{
	__u32 way = *(volatile __u8 *)&name->place & (WM_WAYS - 1);
	__u64 *slot = (__u64 *)(head + 1) + wm_bounded(way) * slot_words;

	if (WM_HOLD_TAG(seen) == WM_TAG_BUSY ||
	    __sync_val_compare_and_swap(&head->holds[way], seen, (__u64)WM_TAG_BUSY) != seen)
		return false;
	*(volatile __u64 *)(slot + key_words - 1) = 0;
	wm_barrier();
	__builtin_memcpy(slot + key_words, flow, sizeof(*flow));
#pragma unroll
	for (int word = 0; word < key_words - 1; word++)
		slot[word] = name->words[word];
	wm_barrier();
	*(volatile __u64 *)(slot + key_words - 1) = name->words[key_words - 1];
	wm_barrier();
	*(volatile __u64 *)&head->holds[way] = WM_HOLD(name->tag, flow->expires);
	return true;
}

/* Write a flow at name->place. */
static __always_inline bool wm_flow_write(struct wm_flow_name *name, __u64 seen, const struct wm_flow *flow)
{
	__u32 index = wm_flow_set(name);

	if (name->family == WM_AF_INET) {
		struct wm_flow4_set *set = fw_flows4.lookup(&index);

		return set && wm_slot_write(&set->head, WM_SLOT_WORDS4, WM_KEY_WORDS4, name, seen, flow);
	} else {
		struct wm_flow6_set *set = fw_flows6.lookup(&index);

		return set && wm_slot_write(&set->head, WM_SLOT_WORDS6, WM_KEY_WORDS6, name, seen, flow);
	}
}

/*
 * Note a new flow, in the place of one of the same name if there is one; false: there is no room. When another
 * processor was quicker to take the slot, it may have noted the same flow.
 */
static __always_inline bool wm_flow_open(struct wm_flow_name *name, const struct wm_flow *flow, __u32 now)
{
	struct wm_flow_head *head;
	__u64 seen;
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
			seen = *(volatile __u64 *)&name->seen[which & 1];
		} else {
			head = wm_flow_head(name);
			if (!head)
				return false;
			seen = *(volatile __u64 *)&head
					->holds[*(volatile __u8 *)&name->place & (WM_WAYS - 1)];
		}
		if (wm_flow_write(name, seen, flow))
			return true;
	}
	return false;
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
static __always_inline __u64 wm_flow_claim(struct wm_flow_name *name, const struct wm_flow *flow)
{
	__u32 way = *(volatile __u8 *)&name->place & (WM_WAYS - 1);
	struct wm_flow_head *head = wm_flow_head(name);
	__u64 hold;

	if (!head)
		return 0;
	hold = *(volatile __u64 *)&head->holds[way];
	if ((WM_HOLD_TAG(hold) & ~(__u32)WM_TAG_ANSWERED) != name->tag ||
	    __sync_val_compare_and_swap(&head->holds[way], hold, (__u64)WM_TAG_BUSY) != hold)
		return 0;
	if (wm_flow_mark(flow) == wm_name_mark(name))
		return hold;
	*(volatile __u64 *)&head->holds[way] = hold;
	return 0;
}

static __always_inline void wm_flow_release(struct wm_flow_name *name, __u64 hold)
{
	__u32 way = *(volatile __u8 *)&name->place & (WM_WAYS - 1);
	struct wm_flow_head *head = wm_flow_head(name);

	wm_barrier();
	if (head)
		*(volatile __u64 *)&head->holds[way] = hold;
}

/* From now on the slot is this flow's until that tick, unless another has taken it. */
static __always_inline void wm_flow_keep(struct wm_flow_name *name, bool answered, __u32 until)
{
	__u32 way = *(volatile __u8 *)&name->place & (WM_WAYS - 1), tag;
	struct wm_flow_head *head = wm_flow_head(name);
	__u64 hold;

	if (!head)
		return;
	hold = *(volatile __u64 *)&head->holds[way];
	tag = WM_HOLD_TAG(hold) | (answered ? WM_TAG_ANSWERED : 0);
	if ((tag & ~(__u32)WM_TAG_ANSWERED) == name->tag)
		__sync_val_compare_and_swap(&head->holds[way], hold, WM_HOLD(tag, until));
}
