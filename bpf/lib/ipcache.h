/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/* Who an address is; NULL for strangers. The hash first (host addresses), then the trie. */
static __always_inline struct wm_ipcache_value *wm_identify4(__be32 addr, const struct wm_config *settings)
{
	struct wm_ipcache4_key host = { .addr = addr };
	struct wm_prefix4_key prefix = { .prefixlen = 32, .addr = addr };
	struct wm_ipcache_value *value = ipcache4.lookup(&host);

	if (value || !(settings->flags & WM_CFG_PREFIX4))
		return value;
	return prefix4.lookup(&prefix);
}

static __always_inline struct wm_ipcache_value *wm_identify6(const __be32 *addr,
							     const struct wm_config *settings)
{
	struct wm_ipcache6_key host = {};
	struct wm_prefix6_key prefix = { .prefixlen = 128 };
	struct wm_ipcache_value *value;

	__builtin_memcpy(host.addr, addr, sizeof(host.addr));
	value = ipcache6.lookup(&host);
	if (value || !(settings->flags & WM_CFG_PREFIX6))
		return value;
	__builtin_memcpy(prefix.addr, addr, sizeof(prefix.addr));
	return prefix6.lookup(&prefix);
}

static __always_inline struct wm_ipcache_value *wm_identify(__u8 family, const __be32 *addr,
							    const struct wm_config *settings)
{
	return family == WM_AF_INET ? wm_identify4(addr[0], settings) : wm_identify6(addr, settings);
}
