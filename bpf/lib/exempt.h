/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * What may stay outside the tunnel even in strict mode: without neighbour discovery no packet finds
 * its way, without "packet too big" large transfers stall (RFC 4890), and what the operator configured.
 */
#define WM_ICMP_UNREACHABLE 3
#define WM_ICMP_FRAG_NEEDED 4
#define WM_ICMP6_TOO_BIG 2
#define WM_ICMP6_MLD_FIRST 130
#define WM_ICMP6_MLD_LAST 132
#define WM_ICMP6_MLD2_REPORT 143
#define WM_ICMP6_ND_FIRST 133
#define WM_ICMP6_ND_LAST 137
#define WM_ND_HOP_LIMIT 255 /* RFC 4861: anything else came from beyond the link */

static __always_inline bool wm_exempt_icmp6(const struct wm_packet *packet)
{
	__u8 type = packet->icmp_type;

	if (type >= WM_ICMP6_ND_FIRST && type <= WM_ICMP6_ND_LAST)
		return packet->hop_limit == WM_ND_HOP_LIMIT;
	return type == WM_ICMP6_TOO_BIG || (type >= WM_ICMP6_MLD_FIRST && type <= WM_ICMP6_MLD_LAST) ||
	       type == WM_ICMP6_MLD2_REPORT;
}

static __always_inline bool wm_exempt_port(__u8 protocol, __be16 port)
{
	struct wm_exception_key key = { .protocol = protocol, .port = port };

	return exceptions.lookup(&key) != NULL;
}

static __always_inline bool wm_exempt_configured(const struct wm_packet *packet)
{
	if (wm_exempt_port(packet->protocol, 0))
		return true;
	if (packet->l4 != WM_L4_PORTS || packet->protocol == IPPROTO_ICMP ||
	    packet->protocol == IPPROTO_ICMPV6)
		return false;
	return wm_exempt_port(packet->protocol, packet->sport) ||
	       wm_exempt_port(packet->protocol, packet->dport);
}

/* packet->l4 must not be WM_L4_BROKEN. */
static __always_inline bool wm_exempt(const struct wm_packet *packet, const struct wm_config *settings)
{
	if (packet->l4 == WM_L4_PORTS) {
		if (packet->family == WM_AF_INET && packet->protocol == IPPROTO_ICMP &&
		    packet->icmp_type == WM_ICMP_UNREACHABLE && packet->icmp_code == WM_ICMP_FRAG_NEEDED)
			return true;
		if (packet->family == WM_AF_INET6 && packet->protocol == IPPROTO_ICMPV6 &&
		    wm_exempt_icmp6(packet))
			return true;
	}
	return (settings->flags & WM_CFG_EXCEPTIONS) && wm_exempt_configured(packet);
}
