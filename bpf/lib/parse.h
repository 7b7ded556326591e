/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * Reading of headers. Every read is checked against the packet's end; bytes that a driver left
 * outside the linear part are fetched by bpf_skb_load_bytes, so "truncated" means that the packet
 * itself ends there. Link and network layer are read first; the transport only for members.
 */

#define WM_AF_INET 2
#define WM_AF_INET6 10
#define WM_VLAN_TAGS 2     /* tags left in the packet: the outermost one is usually in the skb already */
#define WM_EXTENSIONS 8    /* IPv6 extension headers that are walked; more than that counts as broken */
#define WM_FARTHEST 0x3FFF /* no header that is read begins beyond; the verifier wants a bound */
#define WM_IP_OFFSET 0x1FFF
#define WM_IP_MORE 0x2000
#define WM_IP6_OFFSET 0xFFF8

enum wm_l4 {
	WM_L4_OPAQUE,   /* a protocol without ports */
	WM_L4_PORTS,    /* ports (or ICMP type and code) are known */
	WM_L4_FRAGMENT, /* a later fragment: protocol known, ports not */
	WM_L4_BROKEN,   /* the headers are not what a stack would send */
};

struct wm_packet {
	__u8 family; /* WM_AF_INET, WM_AF_INET6, or 0: no IP */
	bool arp;    /* an ARP packet; its sender is in src, family stays 0 */
	__u8 protocol;
	__u8 l4; /* enum wm_l4 */
	__u8 hop_limit;
	__u8 tos;
	__u8 icmp_type;
	__u8 icmp_code;
	__be16 sport;
	__be16 dport;
	bool fragmented; /* any fragment, the first one included */
	__u8 tcp_flags;  /* only after wm_parse_tcp */
	__u32 fragment_id;
	__u32 l4_offset;
	__be32 src[4]; /* IPv4 in the first word */
	__be32 dst[4];
};

struct wm_ports {
	__be16 source;
	__be16 dest;
};

struct wm_vlan {
	__be16 tci;
	__be16 protocol;
};

/* An ARP packet of IPv4 over Ethernet. */
struct wm_arp {
	__be16 hardware;
	__be16 protocol;
	__u8 hardware_len;
	__u8 protocol_len;
	__be16 operation;
	__u8 sender_hardware[ETH_ALEN];
	__be16 sender[2];
};

/*
 * Defines a function that gives a header at an offset, or NULL when the packet ends before: a pointer into the
 * packet, or, for bytes outside its linear part, to the copy in room. Typed, because the compiler believes the
 * type's alignment and loads words.
 */
#define WM_HEADER(name, type)                                                                                \
	static __always_inline const type *name(struct __sk_buff *skb, __u32 offset, type *room)             \
	{                                                                                                    \
		const type *header;                                                                          \
                                                                                                             \
		if (offset > WM_FARTHEST)                                                                    \
			return NULL;                                                                         \
		/* Nothing changes, but the verifier sees the bound on the register that is added. */        \
		asm volatile("%0 &= 0x3FFF" : "+r"(offset));                                                 \
		header = (void *)(long)skb->data + offset;                                                   \
		if ((void *)(header + 1) <= (void *)(long)skb->data_end)                                     \
			return header;                                                                       \
		return bpf_skb_load_bytes(skb, offset, room, sizeof(*room)) < 0 ? NULL : room;               \
	}

WM_HEADER(wm_byte, __u8)
WM_HEADER(wm_ethertype, __be16)
WM_HEADER(wm_vlan_tag, struct wm_vlan)
WM_HEADER(wm_arp_packet, struct wm_arp)
WM_HEADER(wm_ipv4, struct iphdr)
WM_HEADER(wm_ipv6, struct ipv6hdr)
WM_HEADER(wm_transport, struct wm_ports)

static __always_inline bool wm_is_vlan(__be16 protocol)
{
	return protocol == bpf_htons(ETH_P_8021Q) || protocol == bpf_htons(ETH_P_8021AD);
}

/* Ethertype and start of the network header. Devices without a link layer tell by the version. */
static __always_inline __be16 wm_parse_link(struct __sk_buff *skb, bool l2, __u32 *offset)
{
	struct wm_vlan tag_room;
	__be16 type_room, protocol;
	__u8 version_room;

	if (!l2) {
		const __u8 *version = wm_byte(skb, 0, &version_room);

		*offset = 0;
		if (!version)
			return 0;
		return *version >> 4 == 4   ? bpf_htons(ETH_P_IP)
		       : *version >> 4 == 6 ? bpf_htons(ETH_P_IPV6)
					    : 0;
	}
	const __be16 *type = wm_ethertype(skb, offsetof(struct ethhdr, h_proto), &type_room);

	if (!type)
		return 0;
	protocol = *type;
	*offset = sizeof(struct ethhdr);
#pragma unroll
	for (int i = 0; i < WM_VLAN_TAGS; i++) {
		if (!wm_is_vlan(protocol))
			break;
		const struct wm_vlan *tag = wm_vlan_tag(skb, *offset, &tag_room);

		if (!tag)
			return 0;
		protocol = tag->protocol;
		*offset += sizeof(*tag);
	}
	return protocol;
}

static __always_inline void wm_parse_ipv4(struct __sk_buff *skb, __u32 offset, struct wm_packet *packet)
{
	struct iphdr room;
	const struct iphdr *ip = wm_ipv4(skb, offset, &room);

	if (!ip)
		return; /* not even the addresses: nothing that a stack would deliver or that carries data */
	packet->family = WM_AF_INET;
	packet->protocol = ip->protocol;
	packet->tos = ip->tos;
	packet->src[0] = ip->saddr;
	packet->dst[0] = ip->daddr;
	packet->l4_offset = offset + ip->ihl * 4;
	packet->fragmented = ip->frag_off & bpf_htons(WM_IP_OFFSET | WM_IP_MORE);
	packet->fragment_id = ip->id;
	if (ip->version != 4 || ip->ihl < 5)
		packet->l4 = WM_L4_BROKEN;
	else if (ip->frag_off & bpf_htons(WM_IP_OFFSET))
		packet->l4 = WM_L4_FRAGMENT;
}

static __always_inline void wm_parse_ipv6(struct __sk_buff *skb, __u32 offset, struct wm_packet *packet)
{
	struct ipv6hdr room;
	const struct ipv6hdr *ip = wm_ipv6(skb, offset, &room);

	if (!ip)
		return;
	packet->family = WM_AF_INET6;
	packet->protocol = ip->nexthdr;
	packet->hop_limit = ip->hop_limit;
	__builtin_memcpy(packet->src, &ip->saddr, sizeof(packet->src));
	__builtin_memcpy(packet->dst, &ip->daddr, sizeof(packet->dst));
	packet->l4_offset = offset + sizeof(*ip);
	if (ip->version != 6)
		packet->l4 = WM_L4_BROKEN;
}

static __always_inline void wm_parse_arp(struct __sk_buff *skb, __u32 offset, struct wm_packet *packet)
{
	struct wm_arp room;
	const struct wm_arp *arp = wm_arp_packet(skb, offset, &room);

	if (!arp || arp->protocol != bpf_htons(ETH_P_IP) || arp->hardware_len != ETH_ALEN ||
	    arp->protocol_len != sizeof(arp->sender))
		return;
	packet->arp = true;
	__builtin_memcpy(packet->src, arp->sender, sizeof(arp->sender));
}

/* Link and network layer; packet->family stays 0 for what is no IP. */
static __always_inline void wm_parse_network(struct __sk_buff *skb, bool l2, struct wm_packet *packet)
{
	__u32 offset;
	__be16 protocol = wm_parse_link(skb, l2, &offset);

	if (protocol == bpf_htons(ETH_P_IP))
		wm_parse_ipv4(skb, offset, packet);
	else if (protocol == bpf_htons(ETH_P_IPV6))
		wm_parse_ipv6(skb, offset, packet);
	else if (protocol == bpf_htons(ETH_P_ARP))
		wm_parse_arp(skb, offset, packet);
}

/* One IPv6 extension header: true when there was one and the walk goes on. */
static __always_inline bool wm_skip_extension(struct __sk_buff *skb, struct wm_packet *packet)
{
	struct {
		__u8 next;
		__u8 len;
		__be16 fragment;
		__be32 id;
	} header;
	__u8 kind = packet->protocol;

	if (kind != IPPROTO_HOPOPTS && kind != IPPROTO_ROUTING && kind != IPPROTO_DSTOPTS &&
	    kind != IPPROTO_AH && kind != IPPROTO_FRAGMENT)
		return false;
	if (bpf_skb_load_bytes(skb, packet->l4_offset, &header, sizeof(header)) < 0) {
		packet->l4 = WM_L4_BROKEN;
		return false;
	}
	packet->protocol = header.next;
	if (kind == IPPROTO_FRAGMENT) {
		packet->l4_offset += 8;
		packet->fragmented = true;
		packet->fragment_id = header.id;
		if (header.fragment & bpf_htons(WM_IP6_OFFSET)) {
			packet->l4 = WM_L4_FRAGMENT;
			return false;
		}
	} else if (kind == IPPROTO_AH) {
		packet->l4_offset += (header.len + 2) * 4;
	} else {
		packet->l4_offset += (header.len + 1) * 8;
	}
	return true;
}

static __always_inline void wm_walk_extensions(struct __sk_buff *skb, struct wm_packet *packet)
{
#pragma unroll
	for (int i = 0; i < WM_EXTENSIONS; i++) {
		if (!wm_skip_extension(skb, packet))
			return;
	}
	packet->l4 = WM_L4_BROKEN;
}

static __always_inline bool wm_has_ports(__u8 protocol)
{
	return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP || protocol == IPPROTO_SCTP ||
	       protocol == IPPROTO_ICMP || protocol == IPPROTO_ICMPV6;
}

/* The transport header: ports, or type and code. */
static __always_inline void wm_parse_transport(struct __sk_buff *skb, struct wm_packet *packet)
{
	const struct wm_ports *ports;
	struct wm_ports room;

	if (packet->family == WM_AF_INET6 && packet->l4 == WM_L4_OPAQUE)
		wm_walk_extensions(skb, packet);
	if (packet->l4 != WM_L4_OPAQUE || !wm_has_ports(packet->protocol))
		return;
	ports = wm_transport(skb, packet->l4_offset, &room);
	if (!ports) {
		packet->l4 = WM_L4_BROKEN;
		return;
	}
	packet->l4 = WM_L4_PORTS;
	if (packet->protocol == IPPROTO_ICMP || packet->protocol == IPPROTO_ICMPV6) {
		packet->icmp_type = bpf_ntohs(ports->source) >> 8;
		packet->icmp_code = bpf_ntohs(ports->source) & 0xFF;
	} else {
		packet->sport = ports->source;
		packet->dport = ports->dest;
	}
}

#define WM_ICMP_ECHO 8
#define WM_ICMP_ECHO_REPLY 0
#define WM_ICMP6_ECHO 128
#define WM_ICMP6_ECHO_REPLY 129

static __always_inline bool wm_is_icmp(const struct wm_packet *packet)
{
	return packet->protocol == IPPROTO_ICMP || packet->protocol == IPPROTO_ICMPV6;
}

static __always_inline bool wm_icmp_is_request(const struct wm_packet *packet)
{
	return packet->icmp_type == (packet->protocol == IPPROTO_ICMP ? WM_ICMP_ECHO : WM_ICMP6_ECHO);
}

static __always_inline bool wm_icmp_is_answer(const struct wm_packet *packet)
{
	return packet->icmp_type ==
	       (packet->protocol == IPPROTO_ICMP ? WM_ICMP_ECHO_REPLY : WM_ICMP6_ECHO_REPLY);
}

/* Flags of a TCP segment; false when its header is cut off. The guard asks only for what it drops. */
static __always_inline bool wm_parse_tcp(struct __sk_buff *skb, struct wm_packet *packet)
{
	__u8 room;
	const __u8 *flags = wm_byte(skb, packet->l4_offset + 13, &room);

	if (!flags)
		return false;
	packet->tcp_flags = *flags;
	return true;
}
