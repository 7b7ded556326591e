/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * Connections. Timeouts are upstream's (cilium-agent's bpf-ct-timeout-*): 8,000 s for an established TCP
 * connection, 60 s for anything else, 10 s for one that closes. A tick is about a second: so many jiffies that
 * telling the time takes a shift, no division and no call. The agent says how many (WM_HZ, WM_TICK_SHIFT).
 */
#define WM_TICKS(seconds) ((__u32)((seconds) * WM_HZ) >> WM_TICK_SHIFT)
#define WM_TICKS_ESTABLISHED WM_TICKS(8000)
#define WM_TICKS_FRESH WM_TICKS(60)
#define WM_TICKS_CLOSING WM_TICKS(10)

#define WM_TCP_FIN 0x01
#define WM_TCP_SYN 0x02
#define WM_TCP_RST 0x04
#define WM_TCP_ACK 0x10

/* Two halves of a word as they follow each other in memory; made in registers, because a word that is read right
 * after its halves were written waits for them. */
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define WM_WORD(first, second) ((__u64)(__u32)(first) | (__u64)(__u32)(second) << 32)
#define WM_HALF_WORD(first, second) ((__u32)(__u16)(first) | (__u32)(__u16)(second) << 16)
#define WM_PROTOCOL_WORD(protocol) ((__u32)(protocol))
#else
#define WM_WORD(first, second) ((__u64)(__u32)(first) << 32 | (__u64)(__u32)(second))
#define WM_HALF_WORD(first, second) ((__u32)(__u16)(first) << 16 | (__u32)(__u16)(second))
#define WM_PROTOCOL_WORD(protocol) ((__u32)(protocol) << 24)
#endif

/* The words of a key: struct wm_flow4_key, struct wm_flow6_key. */
static __always_inline void wm_flow4_words(__be32 remote, __be32 local, __be16 rport, __be16 lport,
					   __u8 protocol, __u64 *words)
{
	words[0] = WM_WORD(remote, local);
	words[1] = WM_WORD(WM_HALF_WORD(rport, lport), WM_PROTOCOL_WORD(protocol));
}

static __always_inline void wm_flow6_words(const __be32 *remote, const __be32 *local, __be16 rport,
					   __be16 lport, __u8 protocol, __u64 *words)
{
	words[0] = WM_WORD(remote[0], remote[1]);
	words[1] = WM_WORD(remote[2], remote[3]);
	words[2] = WM_WORD(local[0], local[1]);
	words[3] = WM_WORD(local[2], local[3]);
	words[4] = WM_WORD(WM_HALF_WORD(rport, lport), WM_PROTOCOL_WORD(protocol));
}

/* The words of a key, and where a flow of that name would be. */
static __always_inline void wm_flow_name(const struct wm_packet *packet, __u32 direction, __u64 seed,
					 struct wm_flow_name *name)
{
	bool in = direction == WM_INGRESS;
	const __be32 *remote = in ? packet->src : packet->dst, *local = in ? packet->dst : packet->src;
	__be16 rport = in ? packet->sport : packet->dport, lport = in ? packet->dport : packet->sport;

	name->family = packet->family;
	if (packet->family == WM_AF_INET)
		wm_flow4_words(remote[0], local[0], rport, lport, packet->protocol, name->words);
	else
		wm_flow6_words(remote, local, rport, lport, packet->protocol, name->words);
	wm_flow_places(name, seed);
}

/* What policy said of the flow: one generation's, whole. */
static __always_inline struct wm_verdict wm_flow_verdict(const struct wm_flow *flow)
{
	union {
		__u64 word;
		struct wm_verdict verdict;
	} read = { .word = *(const volatile __u64 *)&flow->verdict };

	return read.verdict;
}

static __always_inline void wm_flow_judged(struct wm_flow *flow, struct wm_verdict verdict)
{
	union {
		__u64 word;
		struct wm_verdict verdict;
	} write = { .verdict = verdict };

	*(volatile __u64 *)&flow->verdict = write.word;
}

/* One more packet of this flow. */
static __always_inline void wm_flow_note(struct wm_flow *flow, __u32 direction, __u32 bytes)
{
	if (flow->verdict.direction == direction) {
		flow->packets[0]++;
		flow->bytes[0] += bytes;
	} else {
		flow->packets[1]++;
		flow->bytes[1] += bytes;
	}
}

static __always_inline bool wm_fw_passes(__u8 cell, const struct wm_fw_state *state)
{
	return cell == WM_CELL_ALLOW || cell == WM_CELL_AUDIT || (state->flags & WM_FW_AUDIT);
}

static __always_inline __u32 wm_flow_ticks(const struct wm_packet *packet, const struct wm_flow *flow)
{
	if (flow->state & WM_FLOW_CLOSING)
		return WM_TICKS_CLOSING;
	if (packet->protocol == IPPROTO_TCP && (flow->state & WM_FLOW_REPLIED))
		return WM_TICKS_ESTABLISHED;
	return WM_TICKS_FRESH;
}
