/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * Is a packet for this host? The kernel's routing knows, and costs as much as all the rest of a denied packet:
 * its answer is kept for a few seconds in an array of this CPU's own. Only "for us" is kept, so that at worst,
 * for those seconds, an address that moved away is still judged as ours.
 */
#define WM_TICKS_LOCAL 4

static __always_inline __u32 wm_now(void)
{
	return bpf_jiffies64() >> WM_TICK_SHIFT;
}

static __always_inline struct wm_fw_local *wm_local_slot(__u8 family, const __be32 *addr)
{
	__u32 fold = family == WM_AF_INET ? addr[0] : addr[1] ^ addr[2] ^ addr[3];

	fold ^= fold >> 16;
	fold = (fold ^ fold >> 8) & (WM_FW_LOCALS - 1);
	return fw_locals.lookup(&fold);
}

static __always_inline bool wm_local_holds(const struct __sk_buff *skb, const struct wm_fw_local *slot,
					   __u8 family, const __be32 *addr)
{
	if (!slot || slot->family != family || slot->ifindex != skb->ifindex || slot->addr[0] != addr[0])
		return false;
	if (family == WM_AF_INET6 &&
	    (slot->addr[1] != addr[1] || slot->addr[2] != addr[2] || slot->addr[3] != addr[3]))
		return false;
	return (__s32)(slot->until - wm_now()) >= 0;
}

/* Does the kernel deliver this packet here? */
static __always_inline bool wm_is_local(struct __sk_buff *skb, const struct wm_packet *packet)
{
	struct wm_fw_local *slot = wm_local_slot(packet->family, packet->dst);

	if (wm_local_holds(skb, slot, packet->family, packet->dst))
		return true;
	if (wm_routed_on(skb, packet))
		return false;
	if (slot) {
		__builtin_memcpy(slot->addr, packet->dst, sizeof(slot->addr));
		slot->ifindex = skb->ifindex;
		slot->family = packet->family;
		slot->until = wm_now() + WM_TICKS_LOCAL;
	}
	return true;
}
