/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * What the kernel side and the agent agree on: numbers, keys, values.
 * The agent's copy is agent/wardmesh/datapath/contract.py; tests/bpf holds one against the other.
 * Everything is in the host's byte order unless the type says __be.
 */

/* WireGuard's own packets carry this mark (skb->mark under the mask), so that neither the policy
 * routing nor the guard touches them again. Bits outside the mask belong to others and are kept. */
#define WM_MARK 0x1E00
#define WM_MARK_MASK 0xFF00

/* Flags of an ipcache entry. */
#define WM_MEMBER 1 /* an address or subnet of another member of the fleet */
#define WM_STRICT 2 /* only the tunnel may carry packets to and from it */
#define WM_SELF 4   /* a registered address or subnet of this host */

/* Flags of the configuration: they spare the look-up in a map that is known to be empty. */
#define WM_CFG_READY 1      /* the ipcache was filled once; nothing is attached before that */
#define WM_CFG_PREFIX4 2    /* the IPv4 prefix trie holds something */
#define WM_CFG_PREFIX6 4    /* the IPv6 prefix trie holds something */
#define WM_CFG_EXCEPTIONS 8 /* the exceptions hold something */

/* Directions, as upstream's METRIC_INGRESS and METRIC_EGRESS. */
#define WM_INGRESS 1
#define WM_EGRESS 2

/* Reasons. 0, 3 and everything from 130 on are upstream's numbers (pkg/monitor/api); 64 and 65 are ours. */
#define WM_FORWARDED 0     /* routed traffic, not the host's own */
#define WM_PLAINTEXT 3     /* to or from a member outside the tunnel, let through */
#define WM_TUNNEL 64       /* WireGuard's own packet */
#define WM_EXEMPT 65       /* neighbour discovery, path MTU, multicast or a configured exception */
#define WM_INVALID 134     /* dropped: the headers of a member's packet cannot be read */
#define WM_UNENCRYPTED 195 /* dropped: "Traffic is unencrypted" */

/* Row of the metrics array. */
#define WM_METRIC_ROWS 1024
#define WM_METRIC_ROW(reason, direction) (((direction) << 8) | (reason))

/* Room for what a program works with; see guard.c. */
struct wm_room {
	__u64 words[8];
};

/* Who an address is. One value for the hashes and the tries. */
struct wm_ipcache_value {
	__u32 identity;
	__u32 flags;
};

/* Host addresses: plain hashes, by far the most frequent case. */
struct wm_ipcache4_key {
	__be32 addr;
};

struct wm_ipcache6_key {
	__be32 addr[4];
};

/* Subnets behind a member: longest prefix match, asked only for what the hash misses. */
struct wm_prefix4_key {
	__u32 prefixlen;
	__be32 addr;
};

struct wm_prefix6_key {
	__u32 prefixlen;
	__be32 addr[4];
};

/* Traffic that may stay outside the tunnel, by protocol and the port of either side; port 0 stands
 * for the whole protocol. */
struct wm_exception_key {
	__u8 protocol;
	__u8 pad;
	__be16 port;
};

/* One row. Eight aligned bytes, so that the kernel replaces it in one store. */
struct wm_config {
	__be16 ports[2]; /* WireGuard's listen ports; a second one while keys rotate; 0 = unused */
	__u32 flags;
};

struct wm_metric {
	__u64 packets;
	__u64 bytes;
};
