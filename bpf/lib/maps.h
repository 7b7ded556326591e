/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * The agent creates and pins every map below WM_MAPS before it compiles (sizes come from the
 * configuration); bcc only opens the pins. The sizes given here are therefore never used.
 */
#ifndef WM_MAPS
#error "WM_MAPS: the folder of the pinned maps must be given"
#endif

BPF_F_TABLE("hash:" WM_MAPS "/ipcache4", struct wm_ipcache4_key, struct wm_ipcache_value, ipcache4, 1, 0);
BPF_F_TABLE("hash:" WM_MAPS "/ipcache6", struct wm_ipcache6_key, struct wm_ipcache_value, ipcache6, 1, 0);
BPF_F_TABLE("lpm_trie:" WM_MAPS "/prefix4", struct wm_prefix4_key, struct wm_ipcache_value, prefix4, 1,
	    BPF_F_NO_PREALLOC);
BPF_F_TABLE("lpm_trie:" WM_MAPS "/prefix6", struct wm_prefix6_key, struct wm_ipcache_value, prefix6, 1,
	    BPF_F_NO_PREALLOC);
BPF_F_TABLE("hash:" WM_MAPS "/exceptions", struct wm_exception_key, __u32, exceptions, 1, 0);
BPF_F_TABLE("array:" WM_MAPS "/config", __u32, struct wm_config, config, 1, 0);
BPF_F_TABLE("percpu_array:" WM_MAPS "/metrics", __u32, struct wm_metric, metrics, 1, 0);
BPF_F_TABLE("array:" WM_MAPS "/watch", __u32, struct wm_fw_watch, watch, 1, 0);
BPF_F_TABLE("percpu_array:" WM_MAPS "/buckets", __u32, struct wm_fw_bucket, buckets, 1, 0);
BPF_F_TABLE("percpu_array:" WM_MAPS "/room", __u32, struct wm_room, room, 1, 0);
WM_RING(events);
