/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/* Note why a packet meets its verdict; returns the verdict. */
static __always_inline int wm_fw_count(struct __sk_buff *skb, __u32 direction, __u32 reason, int verdict)
{
	__u32 row = WM_METRIC_ROW(reason, direction);
	struct wm_metric *metric = fw_metrics.lookup(&row);

	if (metric) {
		metric->packets++;
		metric->bytes += skb->len;
	}
	return verdict;
}
