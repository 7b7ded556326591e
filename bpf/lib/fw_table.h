/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * The table of flows. A flow has a set by its hash and another one by more of it, eight holders each; it is put where
 * more room is, so that the sets fill evenly. One that was answered is never displaced: when both sets
 * are full of such, there is no room, and the caller drops. One that was not answered makes way for a newer one,
 * and one whose time is over for anybody.
 *
 * Processors write at the same time. Who takes a slot first makes its holder busy by compare-and-exchange; the
 * last word of the slot's key is cleared before anything else in it changes and written after everything else. So a
 * reader that finds its key before and after it read the verdict has the verdict of its flow. A slot stays with its
 * holder: who has read a holder finds there what that one held, or what took its place. A flow that is busy only
 * because it is judged again is found as ever.
 */
#define WM_NOWHERE 0xFF
#define WM_ENOUGH_ROOM 4 /* holders of the first set that were never used: no flow of it is in another one */
#define WM_KEY_WORDS4 2
#define WM_KEY_WORDS6 5

/* WM_FLOW_BITS4 and 6 come from the configuration, by the command line: of the numbers of all slots. */
#define WM_FLOW_SETS(bits) ((1U << (bits)) / WM_WAYS)
#ifndef WM_TAG_BITS /* a test takes fewer, so that they often meet */
#define WM_TAG_BITS (32 - WM_FLOW_BITS4)
#endif
#define WM_TAG_MASK ((1U << WM_TAG_BITS) - 1)
#define WM_TAG_USED 4
#define WM_HOLD_FLAGS (WM_TAG_ANSWERED | WM_TAG_SETTLED)
#define WM_HOLD(number, tag) ((__u32)(number) << WM_TAG_BITS | (tag) | WM_TAG_SETTLED)
#define WM_HOLD_NUMBER(hold) ((__u32)(hold) >> WM_TAG_BITS)
#define WM_HOLD_TAG(hold) ((__u32)(hold) & WM_TAG_MASK & ~(__u32)WM_HOLD_FLAGS)
#define WM_HOLD_BUSY(hold) (((__u32)(hold) & ~(__u32)WM_TAG_SETTLED) | WM_TAG_ANSWERED)
#define WM_HOLD_FREE(hold) WM_HOLD(WM_HOLD_NUMBER(hold), 0)
#define WM_IS_BUSY(hold) (((hold) & WM_HOLD_FLAGS) == WM_TAG_ANSWERED)

_Static_assert(WM_FLOW_BITS6 <= WM_FLOW_BITS4, "both kinds of numbers have room beside a tag");
_Static_assert(WM_TAG_BITS >= 6, "a tag needs three bits of the hash at least");
_Static_assert(sizeof(struct wm_flow4_key) + sizeof(struct wm_flow) <= WM_SLOT_WORDS4 * 8,
	       "a slot is too small");
_Static_assert(sizeof(struct wm_flow6_key) + sizeof(struct wm_flow) <= WM_SLOT_WORDS6 * 8,
	       "a slot is too small");
_Static_assert(sizeof(struct wm_flow4_key) == WM_KEY_WORDS4 * 8, "an IPv4 key is two words");
_Static_assert(sizeof(struct wm_flow6_key) == WM_KEY_WORDS6 * 8, "an IPv6 key is five words");

#define wm_barrier() asm volatile("" ::: "memory")
/* The compiler must not calculate with a pointer before it was compared with NULL: the verifier refuses that. */
#define wm_checked(pointer) asm volatile("" : "+r"(pointer))

/* A holder's number right before it is used: older verifiers forget the bounds of what was spilled to the stack. */
static __always_inline __u64 wm_bounded(__u64 way)
{
	asm volatile("%0 &= 7" : "+r"(way));
	return way;
}

/* A flow's key and its places. It lies in the memory of a map, where the verifier does not follow it. */
struct wm_flow_name {
	__u64 words[WM_KEY_WORDS6]; /* the key as it lies in a slot */
	__u32 seen[2];              /* who holds the best slot of each set */
	__u32 sets[2];
	__u32 mix; /* bits of the hash that are no set's */
	__u32 tag;
	__u32 slot;     /* where it lies, once place says so */
	__u32 score[2]; /* of the best slot, less is better */
	__u8 best[2];
	__u8 room[2]; /* free slots of each set */
	__u8 family;
	__u8 way;   /* the holder that is tried first */
	__u8 place; /* who holds it: 0 to 7 in the first set, 8 to 15 in the other, or WM_NOWHERE */
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

static __always_inline __u32 wm_flow_way(__u64 hash)
{
	return hash >> 61;
}

static __always_inline __u32 wm_flow_mix(__u64 hash)
{
	return (__u32)(hash >> 26);
}

/* Never 0, which is that of a holder that was never used. */
static __always_inline __u32 wm_flow_tag(__u64 hash)
{
	return WM_HOLD_TAG(wm_flow_mix(hash)) | WM_TAG_USED;
}

/* Beyond the mask of the table's sets there is more of it. */
static __always_inline __u32 wm_other_set(__u32 set, __u32 mix)
{
	return set ^ ((mix * 0x9E3779B1U) >> 8 | 1);
}

static __always_inline void wm_flow_places(struct wm_flow_name *name, __u64 seed)
{
	bool four = name->family == WM_AF_INET;
	__u64 hash = four ? wm_flow4_hash(name->words, seed) : wm_flow6_hash(name->words, seed);
	__u32 mask = four ? WM_FLOW_SETS(WM_FLOW_BITS4) - 1 : WM_FLOW_SETS(WM_FLOW_BITS6) - 1;

	name->mix = wm_flow_mix(hash);
	name->tag = wm_flow_tag(hash);
	name->way = wm_flow_way(hash);
	name->sets[0] = hash & mask;
	name->sets[1] = wm_other_set(name->sets[0], name->mix) & mask;
	name->place = WM_NOWHERE;
	name->slot = 0;
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

/* A bit for each holder with this tag. */
static __always_inline __u32 wm_tagged(const struct wm_flow_head *head, __u32 tag)
{
	__u32 found = 0;

#pragma unroll
	for (int way = 0; way < WM_WAYS; way++)
		found |= wm_is_zero(WM_HOLD_TAG(head->holds[way]) ^ tag) << way;
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

static __always_inline struct wm_flow_head *wm_head4(__u32 set)
{
	return (struct wm_flow_head *)fw_heads4.lookup(&set);
}

static __always_inline struct wm_flow_head *wm_head6(__u32 set)
{
	return (struct wm_flow_head *)fw_heads6.lookup(&set);
}

static __always_inline struct wm_flow_head *wm_head_of(__u8 family, __u32 set)
{
	return family == WM_AF_INET ? wm_head4(set) : wm_head6(set);
}

/* The words of a slot; NULL never happens, but the verifier cannot know. */
static __always_inline __u64 *wm_slot4(__u32 number)
{
	struct wm_flow4_slot *slot = fw_flows4.lookup(&number);

	return (__u64 *)slot;
}

static __always_inline __u64 *wm_slot6(__u32 number)
{
	struct wm_flow6_slot *slot = fw_flows6.lookup(&number);

	return (__u64 *)slot;
}

/* Is the name's flow in the slot of this number? */
static __always_inline bool wm_lies_in(const struct wm_flow_name *name, __u32 number)
{
	const __u64 *slot;

	if (name->family == WM_AF_INET) {
		slot = wm_slot4(number);
		return slot && wm_slot_holds(slot, name->words, WM_KEY_WORDS4);
	}
	slot = wm_slot6(number);
	return slot && wm_slot_holds(slot, name->words, WM_KEY_WORDS6);
}

/* Holders with the right tag, one after another; it is seldom more than one. */
static __always_inline void wm_look_in(const struct wm_flow_head *head, struct wm_flow_name *name, __u8 base)
{
	__u32 tagged = wm_tagged(head, name->tag), way, number;

#pragma clang loop unroll(disable)
	for (int look = 0; look < WM_WAYS; look++) {
		if (!tagged)
			return;
		way = wm_lowest(tagged);
		number = WM_HOLD_NUMBER(*(const volatile __u32 *)&head->holds[wm_bounded(way)]);
		if (wm_lies_in(name, number)) {
			*(volatile __u8 *)&name->place = base + way;
			*(volatile __u32 *)&name->slot = number;
			return;
		}
		tagged &= tagged - 1;
	}
}

/* The flow in the slot of this number. */
static __always_inline struct wm_flow *wm_flow_in(__u8 family, __u32 number)
{
	int count = family == WM_AF_INET ? WM_KEY_WORDS4 : WM_KEY_WORDS6;
	__u64 *slot = family == WM_AF_INET ? wm_slot4(number) : wm_slot6(number);

	if (!slot)
		return NULL;
	wm_checked(slot);
	return (struct wm_flow *)(slot + count);
}

/* The flow at name->place. */
static __always_inline struct wm_flow *wm_flow_found(const struct wm_flow_name *name)
{
	if (*(volatile __u8 *)&name->place == WM_NOWHERE)
		return NULL;
	return wm_flow_in(name->family, *(volatile __u32 *)&name->slot);
}

/* Were half of its holders never used? Such a one is used before a flow goes to another set, so none has gone. */
static __always_inline bool wm_set_is_young(const struct wm_flow_head *head)
{
	__u32 unused = 0;

#pragma unroll
	for (int way = 0; way < WM_WAYS; way++)
		unused += wm_is_zero(head->holds[way]);
	return unused >= WM_ENOUGH_ROOM;
}

/* Was none of its holders ever used? On a host with few flows that is so for most sets, and known at once. */
static __always_inline bool wm_set_is_empty(const struct wm_flow_head *head)
{
	const __u64 *pairs = (const __u64 *)head->holds;

	return !(pairs[0] | pairs[1] | pairs[2] | pairs[3]);
}

/* Note where the flow is; NULL and WM_NOWHERE where it is not. */
static __always_inline struct wm_flow *wm_flow_find(struct wm_flow_name *name)
{
#pragma unroll
	for (int which = 0; which < 2; which++) {
		const struct wm_flow_head *head = wm_head_of(name->family, name->sets[which]);

		if (!head || wm_set_is_empty(head))
			return NULL;
		wm_look_in(head, name, which * WM_WAYS);
		if (*(volatile __u8 *)&name->place != WM_NOWHERE || wm_set_is_young(head))
			break;
	}
	return wm_flow_found(name);
}
