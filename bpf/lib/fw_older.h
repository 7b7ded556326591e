/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * Connections that are older than the firewall: which side opened them is not known any more, so policy may
 * allow them in either direction. The kernel must have such a connection, in a state past its opening: a
 * forged ACK finds none, and a SYN never comes here.
 */
static __always_inline bool wm_fw_is_older(struct __sk_buff *skb, const struct wm_packet *packet,
					   __u32 direction)
{
	struct bpf_sock_tuple tuple = {};
	struct bpf_sock *sock;
	bool in = direction == WM_INGRESS, older;
	__u32 size;

	if (packet->protocol != IPPROTO_TCP || (packet->tcp_flags & WM_TCP_SYN))
		return false;
	if (packet->family == WM_AF_INET) {
		tuple.ipv4.saddr = in ? packet->src[0] : packet->dst[0];
		tuple.ipv4.daddr = in ? packet->dst[0] : packet->src[0];
		tuple.ipv4.sport = in ? packet->sport : packet->dport;
		tuple.ipv4.dport = in ? packet->dport : packet->sport;
		size = sizeof(tuple.ipv4);
	} else {
		__builtin_memcpy(tuple.ipv6.saddr, in ? packet->src : packet->dst, sizeof(packet->src));
		__builtin_memcpy(tuple.ipv6.daddr, in ? packet->dst : packet->src, sizeof(packet->src));
		tuple.ipv6.sport = in ? packet->sport : packet->dport;
		tuple.ipv6.dport = in ? packet->dport : packet->sport;
		size = sizeof(tuple.ipv6);
	}
	sock = bpf_skc_lookup_tcp(skb, &tuple, size, BPF_F_CURRENT_NETNS, 0);
	if (!sock)
		return false;
	/* Established, or on its way down; a half-open or listening one has no packets of this kind. */
	older = sock->state != BPF_TCP_LISTEN && sock->state != BPF_TCP_SYN_RECV &&
		sock->state != BPF_TCP_NEW_SYN_RECV && sock->state != BPF_TCP_SYN_SENT;
	bpf_sk_release(sock);
	return older;
}
