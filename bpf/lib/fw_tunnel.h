/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/* WireGuard's packets. Sent ones carry a mark that needs CAP_NET_ADMIN; received ones are its to check. */
static __always_inline bool wm_fw_is_tunnel(const struct __sk_buff *skb, const struct wm_packet *packet,
					    __u32 direction)
{
	struct wm_fw_ports *ports;
	__u32 row = 0;

	if (packet->protocol != IPPROTO_UDP)
		return false;
	if (direction == WM_EGRESS)
		return (skb->mark & WM_MARK_MASK) == WM_MARK;
	if (packet->l4 != WM_L4_PORTS || !packet->dport)
		return false;
	ports = fw_ports.lookup(&row);
	return ports && (packet->dport == ports->ports[0] || packet->dport == ports->ports[1]);
}
