/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/* What policy says about a peer and a class of traffic: two array loads, at any number of rules. */

#define WM_HALF(state) ((state)->generation & 1)

/* Who an address is: host addresses in a hash first, the trie for what misses, else the world. */
static __always_inline struct wm_fw_peer wm_fw_peer(__u8 family, const __be32 *addr,
						    const struct wm_fw_state *state)
{
	struct wm_fw_peer world = { .identity = family == WM_AF_INET ? 9 : 10,
				    .row = family == WM_AF_INET ? WM_ROW_WORLD4 : WM_ROW_WORLD6 };
	struct wm_fw_peer *found;

	if (family == WM_AF_INET) {
		struct wm_ipcache4_key host = { .addr = addr[0] };
		struct wm_prefix4_key prefix = { .prefixlen = 32, .addr = addr[0] };

		found = fw_peers4.lookup(&host);
		if (!found && (state->flags & WM_FW_NETS4))
			found = fw_nets4.lookup(&prefix);
	} else {
		struct wm_ipcache6_key host = {};
		struct wm_prefix6_key prefix = { .prefixlen = 128 };

		__builtin_memcpy(host.addr, addr, sizeof(host.addr));
		found = fw_peers6.lookup(&host);
		if (!found && (state->flags & WM_FW_NETS6)) {
			__builtin_memcpy(prefix.addr, addr, sizeof(prefix.addr));
			found = fw_nets6.lookup(&prefix);
		}
	}
	return found ? *found : world;
}

/* The class of a packet that would open a flow in this direction to this port; an answer to an echo stands
 * for the request. */
static __always_inline __u16 wm_fw_class(const struct wm_packet *packet, __be16 port, __u32 direction,
					 bool answer, const struct wm_fw_state *state)
{
	__u32 slot = (WM_HALF(state) * 2 + (direction == WM_EGRESS)) * WM_CLASS_TABLES + 3;
	__u32 place = WM_CLASS_PROTOCOL + packet->protocol;
	struct wm_fw_classes *classes;

	if (packet->l4 == WM_L4_PORTS) {
		if (packet->protocol == IPPROTO_ICMP && packet->family == WM_AF_INET)
			place = WM_CLASS_ICMP + (answer ? WM_ICMP_ECHO : packet->icmp_type);
		else if (packet->protocol == IPPROTO_ICMPV6 && packet->family == WM_AF_INET6)
			place = WM_CLASS_ICMP6 + (answer ? WM_ICMP6_ECHO : packet->icmp_type);
		else if (packet->protocol == IPPROTO_TCP)
			slot -= 3;
		else if (packet->protocol == IPPROTO_UDP)
			slot -= 2;
		else if (packet->protocol == IPPROTO_SCTP)
			slot -= 1;
		if (packet->protocol == IPPROTO_TCP || packet->protocol == IPPROTO_UDP ||
		    packet->protocol == IPPROTO_SCTP)
			place = bpf_ntohs(port);
	}
	slot = slot * WM_CLASS_PIECES + (place & 0xFFFF) / WM_CLASS_PIECE;
	classes = fw_classes.lookup(&slot);
	if (!classes)
		return 0;
	return classes->of[place % WM_CLASS_PIECE] & (WM_FW_CLASSES - 1);
}

static __always_inline __u8 wm_fw_cell(__u32 row, __u16 class, __u32 direction,
				       const struct wm_fw_state *state)
{
	__u32 place = (WM_HALF(state) * 2 + (direction == WM_EGRESS)) * WM_FW_ROWS + row;
	struct wm_fw_row *found = fw_rows.lookup(&place);

	if (!found)
		return WM_CELL_NO_RULE;
	return found->cells[(class / WM_FW_CELLS_PER_WORD) & (WM_FW_WORDS - 1)] >>
		       ((class % WM_FW_CELLS_PER_WORD) * 2) &
	       3;
}

/* One name of a cell as a word, so that it is compared as one. */
static __always_inline __u64 wm_judged_word(const struct wm_judged_key *key)
{
	return *(const __u64 *)key;
}

static __always_inline void wm_fw_judged_add(struct wm_judged_key key, __u64 more)
{
	__u64 *count = fw_judged.lookup(&key);

	if (count)
		__sync_fetch_and_add(count, more);
	else
		fw_judged.update(&key, &more);
}

/*
 * For the counters of rules: which cell decided about how many new flows. Most packets find their cell among this
 * CPU's recent ones, where one more needs no atomic instruction; the cell that stood there before goes to the hash.
 * One of another generation is forgotten, because nobody asks for it any more.
 */
static __always_inline void wm_fw_judged(__u32 row, __u16 class, __u32 direction, __u32 generation)
{
	struct wm_judged_key key = {
		.direction = direction, .half = generation & 1, .class = class, .row = row
	};
	__u32 place = (row * 7 + class * 2 + direction) & (WM_RECENT - 1);
	struct wm_fw_recent *recent = fw_recent.lookup(&place);

	if (!recent)
		return;
	if (recent->generation == generation) {
		if (wm_judged_word(&recent->key) == wm_judged_word(&key)) {
			recent->count++;
			return;
		}
		wm_fw_judged_add(recent->key, recent->count);
	}
	recent->key = key;
	recent->count = 1;
	recent->generation = generation;
}

static __always_inline bool wm_fw_is_failsafe(const struct wm_packet *packet, __be16 port, __u32 direction,
					      __u32 identity, const struct wm_fw_state *state)
{
	struct wm_fw_failsafe_key key = { .direction = direction,
					  .protocol = packet->protocol,
					  .port = port };
	__u32 *whom;

	if (!(state->failsafe & WM_FAILSAFE_BIT(bpf_ntohs(port))))
		return false;
	if (packet->protocol != IPPROTO_TCP && packet->protocol != IPPROTO_UDP &&
	    packet->protocol != IPPROTO_SCTP)
		return false;
	if (packet->l4 != WM_L4_PORTS)
		return false;
	whom = fw_failsafe.lookup(&key);
	if (!whom)
		return false;
	return *whom == WM_FAILSAFE_ALL || (identity >= WM_MEMBERS_FIRST && identity <= WM_MEMBERS_LAST);
}
