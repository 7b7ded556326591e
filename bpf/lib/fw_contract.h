/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * The firewall's numbers, keys and values; the agent's copy is agent/wardmesh/datapath/fw_contract.py, and
 * tests/bpf holds one against the other. WM_FW_ROWS comes from the configuration, by the command line.
 */

/* Port classes: ports that no rule tells apart share one. A cell is what one class of traffic with one
 * row of peers meets: two bits, 32 cells to a word. */
#define WM_FW_CLASSES 1024
#define WM_FW_CELLS_PER_WORD 32
#define WM_FW_WORDS (WM_FW_CLASSES / WM_FW_CELLS_PER_WORD)

#define WM_CELL_NO_RULE 0 /* nothing allows it */
#define WM_CELL_ALLOW 1
#define WM_CELL_DENY 2  /* a deny rule forbids it */
#define WM_CELL_AUDIT 3 /* it would be dropped, and is only recorded */

/* Rows that always exist: peers that no entry names. */
#define WM_ROW_WORLD4 0
#define WM_ROW_WORLD6 1

/* Places in the last of the four class tables of a direction. */
#define WM_CLASS_TABLES 4 /* TCP, UDP, SCTP, everything else */
#define WM_CLASS_ICMP 0
#define WM_CLASS_ICMP6 256
#define WM_CLASS_PROTOCOL 512 /* + protocol: no ports, or a fragment whose ports are unknown */

/* Flags of the state. */
#define WM_FW_AUDIT 1   /* the whole host: record, drop nothing */
#define WM_FW_NETS4 2   /* the IPv4 prefix trie holds something */
#define WM_FW_NETS6 4   /* the IPv6 prefix trie holds something */
#define WM_FW_ENFORCE 8 /* a direction has a default deny, so what cannot be read is dropped */

/* Reasons beyond the guard's. From 130 on they are upstream's (pkg/monitor/api). */
#define WM_FW_ALLOWED 68   /* a new flow that policy allows */
#define WM_FW_AUDITED 66   /* a new flow that would have been dropped */
#define WM_FW_FAILSAFE 67  /* a new flow that the failsafe lets through */
#define WM_FW_POLICY 133   /* dropped: "Policy denied" */
#define WM_FW_CT_FULL 155  /* dropped: "CT: Map insertion failed" */
#define WM_FW_FRAGMENT 157 /* dropped: "Fragmented packet": a later one, whose first was not seen */
#define WM_FW_ICMP6 176    /* dropped: "Forbidden ICMPv6 message" */
#define WM_FW_DENYLIST 181 /* dropped: "Policy denied by denylist" */

/* The first eight aligned bytes are one store, so a swap of the policy is one. The generation's lowest bit says
 * which half of classes and rows is in force. The seed is random and never changes: who does not know it
 * cannot choose flows that meet in one set of the table. failsafe has the bit WM_FAILSAFE_BIT(port) for each port
 * of the failsafe: where it is not set, nothing needs to be looked up. */
struct wm_fw_state {
	__u32 generation;
	__u32 flags;
	__u64 seed;
	__u64 failsafe;
};

#define WM_FAILSAFE_BIT(port) (1ULL << ((port) & 63))

struct wm_fw_ports {
	__be16 ports[2]; /* WireGuard's */
	__u32 pad;
};

struct wm_fw_peer {
	__u32 identity;
	__u32 row;
};

/* A piece of a class table: bcc writes code for each element of a value, so the table comes in small ones. */
#define WM_CLASS_PIECE 64
#define WM_CLASS_PIECES (65536 / WM_CLASS_PIECE)
struct wm_fw_classes {
	__u16 of[WM_CLASS_PIECE];
};

struct wm_fw_row {
	__u64 cells[WM_FW_WORDS];
};

/* Failsafe: new flows of this direction to this port are let through before any policy, to and from everybody,
 * or members only. */
#define WM_FAILSAFE_ALL 1
#define WM_FAILSAFE_MEMBERS 2
#define WM_MEMBERS_FIRST 256     /* identities of members; below are the reserved ones */
#define WM_MEMBERS_LAST 0xFFFFFF /* and above those of prefixes */
struct wm_fw_failsafe_key {
	__u8 direction;
	__u8 protocol;
	__be16 port;
};

/* A flow, the same key in both directions. */
struct wm_flow4_key {
	__be32 remote;
	__be32 local;
	__be16 rport;
	__be16 lport;
	__u8 protocol;
	__u8 pad[3];
} __attribute__((aligned(8)));

struct wm_flow6_key {
	__be32 remote[4];
	__be32 local[4];
	__be16 rport;
	__be16 lport;
	__u8 protocol;
	__u8 pad[3];
} __attribute__((aligned(8)));

/* What policy said, as eight aligned bytes: read and written whole, so that nobody ever sees the verdict of one
 * generation under the number of another. */
struct wm_verdict {
	__u32 generation;
	__u16 class;
	__u8 cell;
	__u8 direction; /* of the flow's first packet */
} __attribute__((aligned(8)));

#define WM_FLOW_CLOSING 1
#define WM_FLOW_REPLIED 2
#define WM_FLOW_FAILSAFE 4

struct wm_flow {
	struct wm_verdict verdict;
	__u64 bytes[2];   /* in the direction of the first packet, and in the other */
	__u32 packets[2]; /* modulo 2^32 */
	__u32 identity;   /* of the peer */
	__u32 row;
	__u32 expires; /* in ticks, see fw_flows.h */
	__u8 state;    /* WM_FLOW_… */
	__u8 pad[3];
};

/*
 * The table of flows: heads, a set of eight holders each, and slots with a flow each. fw_table.h says how a flow finds
 * its set. A holder that is used for the first time takes the next slot, fw_taken says which, and keeps it for ever. So
 * the slots that were ever used lie side by side, and looking for a flow that is not there touches a head and no slot.
 *
 * A holder is one number: 0 when it was never used; else that of its slot above WM_TAG_BITS bits of a tag, which are
 * bits of the hash and these two. Who is busy with a slot clears the second and sets the first until it gives it back.
 * Who finds that a flow is over leaves nothing of its tag, so that nobody has to look again.
 */
#define WM_WAYS 8
#define WM_TAG_ANSWERED 1
#define WM_TAG_SETTLED 2
#define WM_SLOT_WORDS4 8 /* the key and the flow fill a line of the cache */
#define WM_SLOT_WORDS6 16

/* A line of the cache. ends: ticks before which a slot is certainly in use; the flow itself may have moved its end
 * later. */
struct wm_flow_head {
	__u32 holds[WM_WAYS];
	__u32 ends[WM_WAYS];
} __attribute__((aligned(8)));

struct wm_flow4_slot {
	__u64 words[WM_SLOT_WORDS4];
};

struct wm_flow6_slot {
	__u64 words[WM_SLOT_WORDS6];
};

/* Who decides about the later fragments of a datagram: its first one. */
struct wm_fragment_key {
	__be32 src[4];
	__be32 dst[4];
	__u32 id;
	__u32 protocol;
};

struct wm_fragment_ports {
	__be16 source;
	__be16 dest;
};

/* An address that the kernel delivers here instead of routing it on, as far as was seen a moment ago. */
#define WM_FW_LOCALS 256
struct wm_fw_local {
	__be32 addr[4];
	__u32 ifindex;
	__u32 until; /* in ticks */
	__u32 family;
	__u32 pad;
};

/* Room for what a program works with; see fw_work.h. */
struct wm_fw_room {
	__u64 words[48];
};

/* How often a cell decided about a new flow: in a hash for all, and before it in a few places of each CPU for the
 * cells that decide often. What stands there counts for its generation only. */
struct wm_judged_key {
	__u8 direction;
	__u8 half;
	__u16 class;
	__u32 row;
} __attribute__((aligned(8)));

#define WM_RECENT 64
struct wm_fw_recent {
	struct wm_judged_key key;
	__u64 count;
	__u32 generation;
	__u32 pad;
};
