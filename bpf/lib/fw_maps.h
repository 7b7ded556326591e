/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/* As in maps.h: the agent creates and pins every map; the sizes given here are never used. */
#ifndef WM_MAPS
#error "WM_MAPS: the folder of the pinned maps must be given"
#endif

BPF_F_TABLE("array:" WM_MAPS "/state", __u32, struct wm_fw_state, fw_state, 1, 0);
BPF_F_TABLE("array:" WM_MAPS "/ports", __u32, struct wm_fw_ports, fw_ports, 1, 0);
BPF_F_TABLE("array:" WM_MAPS "/classes", __u32, struct wm_fw_classes, fw_classes, 1, 0);
BPF_F_TABLE("array:" WM_MAPS "/rows", __u32, struct wm_fw_row, fw_rows, 1, 0);
BPF_F_TABLE("hash:" WM_MAPS "/peers4", struct wm_ipcache4_key, struct wm_fw_peer, fw_peers4, 1, 0);
BPF_F_TABLE("hash:" WM_MAPS "/peers6", struct wm_ipcache6_key, struct wm_fw_peer, fw_peers6, 1, 0);
BPF_F_TABLE("lpm_trie:" WM_MAPS "/nets4", struct wm_prefix4_key, struct wm_fw_peer, fw_nets4, 1,
	    BPF_F_NO_PREALLOC);
BPF_F_TABLE("lpm_trie:" WM_MAPS "/nets6", struct wm_prefix6_key, struct wm_fw_peer, fw_nets6, 1,
	    BPF_F_NO_PREALLOC);
BPF_F_TABLE("hash:" WM_MAPS "/failsafe", struct wm_fw_failsafe_key, __u32, fw_failsafe, 1, 0);
BPF_F_TABLE("array:" WM_MAPS "/heads4", __u32, struct wm_flow_head, fw_heads4, 1, 0);
BPF_F_TABLE("array:" WM_MAPS "/heads6", __u32, struct wm_flow_head, fw_heads6, 1, 0);
BPF_F_TABLE("array:" WM_MAPS "/taken", __u32, __u64, fw_taken, 1, 0);
/* The agent maps these two into its memory. */
BPF_F_TABLE("array:" WM_MAPS "/flows4", __u32, struct wm_flow4_slot, fw_flows4, 1, 0);
BPF_F_TABLE("array:" WM_MAPS "/flows6", __u32, struct wm_flow6_slot, fw_flows6, 1, 0);
BPF_F_TABLE("lru_hash:" WM_MAPS "/fragments", struct wm_fragment_key, struct wm_fragment_ports, fw_fragments,
	    1, 0);
BPF_F_TABLE("lru_hash:" WM_MAPS "/judged", struct wm_judged_key, __u64, fw_judged, 1, 0);
BPF_F_TABLE("percpu_array:" WM_MAPS "/recent", __u32, struct wm_fw_recent, fw_recent, 1, 0);
BPF_F_TABLE("percpu_array:" WM_MAPS "/locals", __u32, struct wm_fw_local, fw_locals, 1, 0);
BPF_F_TABLE("percpu_array:" WM_MAPS "/room", __u32, struct wm_fw_room, fw_room, 1, 0);
BPF_F_TABLE("percpu_array:" WM_MAPS "/metrics", __u32, struct wm_metric, fw_metrics, 1, 0);
BPF_F_TABLE("array:" WM_MAPS "/watch", __u32, struct wm_fw_watch, fw_watch, 1, 0);
BPF_F_TABLE("percpu_array:" WM_MAPS "/buckets", __u32, struct wm_fw_bucket, fw_buckets, 1, 0);

WM_RING(fw_events);
