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

/* One key for either family; IPv4 uses the first words. */
struct wm_flow_name {
	struct wm_flow6_key key6;
	struct wm_flow4_key key4;
	__u8 family;
};

static __always_inline void wm_flow4_key(const struct wm_packet *packet, __u32 direction,
					 struct wm_flow4_key *key)
{
	bool in = direction == WM_INGRESS;

	key->remote = in ? packet->src[0] : packet->dst[0];
	key->local = in ? packet->dst[0] : packet->src[0];
	key->rport = in ? packet->sport : packet->dport;
	key->lport = in ? packet->dport : packet->sport;
	key->protocol = packet->protocol;
}

static __always_inline void wm_flow6_key(const struct wm_packet *packet, __u32 direction,
					 struct wm_flow6_key *key)
{
	bool in = direction == WM_INGRESS;

	__builtin_memcpy(key->remote, in ? packet->src : packet->dst, sizeof(packet->src));
	__builtin_memcpy(key->local, in ? packet->dst : packet->src, sizeof(packet->src));
	key->rport = in ? packet->sport : packet->dport;
	key->lport = in ? packet->dport : packet->sport;
	key->protocol = packet->protocol;
}

/* name must be empty. */
static __always_inline void wm_flow_name(const struct wm_packet *packet, __u32 direction,
					 struct wm_flow_name *name)
{
	name->family = packet->family;
	if (packet->family == WM_AF_INET)
		wm_flow4_key(packet, direction, &name->key4);
	else
		wm_flow6_key(packet, direction, &name->key6);
}

/* One more packet of this flow. */
static __always_inline void wm_flow_note(struct wm_flow *flow, __u32 direction, __u32 bytes)
{
	if (flow->direction == direction) {
		flow->packets[0]++;
		flow->bytes[0] += bytes;
	} else {
		flow->packets[1]++;
		flow->bytes[1] += bytes;
	}
}

static __always_inline bool wm_fw_passes(const struct wm_flow *flow, const struct wm_fw_state *state)
{
	return flow->cell == WM_CELL_ALLOW || flow->cell == WM_CELL_AUDIT || (state->flags & WM_FW_AUDIT);
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
