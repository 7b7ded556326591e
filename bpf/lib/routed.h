/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/* Would the kernel route this packet on, instead of delivering it here? */
static __always_inline bool wm_routed_on(struct __sk_buff *skb, const struct wm_packet *packet)
{
	struct bpf_fib_lookup fib = {};
	int result;

	fib.family = packet->family;
	fib.l4_protocol = packet->protocol;
	fib.sport = packet->sport;
	fib.dport = packet->dport;
	fib.ifindex = skb->ifindex;
	if (packet->family == WM_AF_INET) {
		fib.tos = packet->tos & 0x1E;
		fib.ipv4_src = packet->src[0];
		fib.ipv4_dst = packet->dst[0];
	} else {
		__builtin_memcpy(fib.ipv6_src, packet->src, sizeof(packet->src));
		__builtin_memcpy(fib.ipv6_dst, packet->dst, sizeof(packet->dst));
	}
	result = bpf_fib_lookup(skb, &fib, sizeof(fib), 0);
	return result == BPF_FIB_LKUP_RET_SUCCESS || result == BPF_FIB_LKUP_RET_NO_NEIGH ||
	       result == BPF_FIB_LKUP_RET_FRAG_NEEDED || result == BPF_FIB_LKUP_RET_UNSUPP_LWT;
}
