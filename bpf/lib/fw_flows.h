/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * Connections. Timeouts are upstream's (cilium-agent's bpf-ct-timeout-*): 8,000 s for an established TCP
 * connection, 60 s for anything else, 10 s for one that closes. A tick is 2^30 ns, so that telling the time
 * needs no division.
 */
#define WM_TICKS_ESTABLISHED 7451
#define WM_TICKS_FRESH 56
#define WM_TICKS_CLOSING 10

#define WM_TCP_FIN 0x01
#define WM_TCP_SYN 0x02
#define WM_TCP_RST 0x04
#define WM_TCP_ACK 0x10

static __always_inline __u32 wm_now(void)
{
#ifdef WM_COARSE_CLOCK
	return bpf_ktime_get_coarse_ns() >> 30;
#else
	return bpf_ktime_get_ns() >> 30;
#endif
}

/* One key for either family; IPv4 uses the first words. */
struct wm_flow_name {
	struct wm_flow6_key key6;
	struct wm_flow4_key key4;
	__u8 family;
};

static __always_inline void wm_flow_name(const struct wm_packet *packet, __u32 direction,
					 struct wm_flow_name *name)
{
	bool in = direction == WM_INGRESS;

	name->family = packet->family;
	if (packet->family == WM_AF_INET) {
		name->key4.remote = in ? packet->src[0] : packet->dst[0];
		name->key4.local = in ? packet->dst[0] : packet->src[0];
		name->key4.rport = in ? packet->sport : packet->dport;
		name->key4.lport = in ? packet->dport : packet->sport;
		name->key4.protocol = packet->protocol;
	} else {
		__builtin_memcpy(name->key6.remote, in ? packet->src : packet->dst, sizeof(packet->src));
		__builtin_memcpy(name->key6.local, in ? packet->dst : packet->src, sizeof(packet->src));
		name->key6.rport = in ? packet->sport : packet->dport;
		name->key6.lport = in ? packet->dport : packet->sport;
		name->key6.protocol = packet->protocol;
	}
}

/* A flow that was answered. */
static __always_inline struct wm_flow *wm_flow_known(struct wm_flow_name *name)
{
	if (name->family == WM_AF_INET)
		return fw_flows4.lookup(&name->key4);
	return fw_flows6.lookup(&name->key6);
}

/* A flow that was not answered yet. */
static __always_inline struct wm_flow *wm_flow_fresh(struct wm_flow_name *name)
{
	if (name->family == WM_AF_INET)
		return fw_fresh4.lookup(&name->key4);
	return fw_fresh6.lookup(&name->key6);
}

static __always_inline bool wm_flow_open(struct wm_flow_name *name, struct wm_flow *flow)
{
	if (name->family == WM_AF_INET)
		return fw_fresh4.update(&name->key4, flow) == 0;
	return fw_fresh6.update(&name->key6, flow) == 0;
}

/* The answer is there: the flow moves to where a flood of new ones cannot displace it. */
static __always_inline void wm_flow_confirm(struct wm_flow_name *name, const struct wm_flow *fresh)
{
	struct wm_flow flow = *fresh;

	if (name->family == WM_AF_INET) {
		if (fw_flows4.update(&name->key4, &flow) == 0)
			fw_fresh4.delete(&name->key4);
	} else {
		if (fw_flows6.update(&name->key6, &flow) == 0)
			fw_fresh6.delete(&name->key6);
	}
}

static __always_inline void wm_flow_forget(struct wm_flow_name *name)
{
	if (name->family == WM_AF_INET) {
		fw_flows4.delete(&name->key4);
		fw_fresh4.delete(&name->key4);
	} else {
		fw_flows6.delete(&name->key6);
		fw_fresh6.delete(&name->key6);
	}
}

static __always_inline __u32 wm_flow_ticks(const struct wm_packet *packet, const struct wm_flow *flow)
{
	if (flow->state & WM_FLOW_CLOSING)
		return WM_TICKS_CLOSING;
	if (packet->protocol == IPPROTO_TCP && (flow->state & WM_FLOW_REPLIED))
		return WM_TICKS_ESTABLISHED;
	return WM_TICKS_FRESH;
}
