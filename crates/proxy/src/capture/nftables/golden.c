/*
 * Writes golden.hex, which the tests of nftables.rs compare with: the same batch, made from the kernel's own headers.
 *
 *   cc -o /tmp/golden golden.c && /tmp/golden > golden.hex
 *
 * One message per line. The numbers are of a little-endian machine.
 */
#include <arpa/inet.h>
#include <linux/in.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_nat.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <stdio.h>
#include <string.h>

static char buf[4096];
static size_t len;
static unsigned seq;

static size_t open_attr(int type)
{
	size_t at = len;
	struct nlattr a = { 0, type };
	memcpy(buf + len, &a, NLA_HDRLEN);
	len += NLA_HDRLEN;
	return at;
}

static void close_attr(size_t at)
{
	((struct nlattr *)(buf + at))->nla_len = len - at;
	while (len % NLA_ALIGNTO)
		buf[len++] = 0;
}

static size_t nest(int type) { return open_attr(type | NLA_F_NESTED); }

static void raw(int type, const void *v, size_t n)
{
	size_t at = open_attr(type);
	memcpy(buf + len, v, n);
	len += n;
	close_attr(at);
}

static void str(int type, const char *s) { raw(type, s, strlen(s) + 1); }
static void be32(int type, __u32 v) { v = htonl(v); raw(type, &v, 4); }

static void open_msg(int type, int flags, int family, int res)
{
	struct nlmsghdr *h = (void *)buf;
	struct nfgenmsg *g = NLMSG_DATA(h);
	memset(buf, 0, sizeof buf);
	h->nlmsg_type = type;
	h->nlmsg_flags = NLM_F_REQUEST | flags;
	h->nlmsg_seq = seq++;
	g->nfgen_family = family;
	g->res_id = htons(res);
	len = NLMSG_LENGTH(sizeof *g);
}

static void close_msg(void)
{
	((struct nlmsghdr *)buf)->nlmsg_len = len;
	for (size_t i = 0; i < len; i++)
		printf("%02x", (unsigned char)buf[i]);
	printf("\n");
}

static void nft(int type, int flags) { open_msg(NFNL_SUBSYS_NFTABLES << 8 | type, flags, NFPROTO_INET, 0); }

static size_t e_data, e_elem, r_exprs;
static void expr(const char *name) { e_elem = nest(NFTA_LIST_ELEM); str(NFTA_EXPR_NAME, name); e_data = nest(NFTA_EXPR_DATA); }
static void end(void) { close_attr(e_data); close_attr(e_elem); }
static void value(int type, const void *v, size_t n) { size_t at = nest(type); raw(NFTA_DATA_VALUE, v, n); close_attr(at); }

static void cmp(int op, const void *v, size_t n)
{
	expr("cmp");
	be32(NFTA_CMP_SREG, NFT_REG_1);
	be32(NFTA_CMP_OP, op);
	value(NFTA_CMP_DATA, v, n);
	end();
}

static void meta(int key, int op, const void *v, size_t n)
{
	expr("meta");
	be32(NFTA_META_KEY, key);
	be32(NFTA_META_DREG, NFT_REG_1);
	end();
	cmp(op, v, n);
}

static void meta32(int key, int op, __u32 v) { meta(key, op, &v, 4); }
static void meta8(int key, __u8 v) { meta(key, NFT_CMP_EQ, &v, 1); }

static void load(int base, int off, int n)
{
	expr("payload");
	be32(NFTA_PAYLOAD_DREG, NFT_REG_1);
	be32(NFTA_PAYLOAD_BASE, base);
	be32(NFTA_PAYLOAD_OFFSET, off);
	be32(NFTA_PAYLOAD_LEN, n);
	end();
}

static void port(int p) { __be16 v = htons(p); load(NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2); cmp(NFT_CMP_EQ, &v, 2); }

static void bits(const void *m, const void *zero, int n)
{
	expr("bitwise");
	be32(NFTA_BITWISE_SREG, NFT_REG_1);
	be32(NFTA_BITWISE_DREG, NFT_REG_1);
	be32(NFTA_BITWISE_LEN, n);
	value(NFTA_BITWISE_MASK, m, n);
	value(NFTA_BITWISE_XOR, zero, n);
	end();
}

static void syn(void)
{
	unsigned char flags = 1 | 2 | 4 | 16, zero = 0, opens = 2;
	load(NFT_PAYLOAD_TRANSPORT_HEADER, 13, 1);
	bits(&flags, &zero, 1);
	cmp(NFT_CMP_EQ, &opens, 1);
}

static void dest(int family, const char *net, const char *mask)
{
	unsigned char a[16], m[16], zero[16] = { 0 }, ones[16];
	int n = family == AF_INET ? 4 : 16;
	memset(ones, 255, 16);
	inet_pton(family, net, a);
	inet_pton(family, mask, m);
	meta8(NFT_META_NFPROTO, family == AF_INET ? NFPROTO_IPV4 : NFPROTO_IPV6);
	load(NFT_PAYLOAD_NETWORK_HEADER, family == AF_INET ? 16 : 24, n);
	if (memcmp(m, ones, n))
		bits(m, zero, n);
	cmp(NFT_CMP_EQ, a, n);
}

static void local(void)
{
	__u32 v = RTN_LOCAL;
	expr("fib");
	be32(NFTA_FIB_DREG, NFT_REG_1);
	be32(NFTA_FIB_RESULT, NFT_FIB_RESULT_ADDRTYPE);
	be32(NFTA_FIB_FLAGS, NFTA_FIB_F_DADDR);
	end();
	cmp(NFT_CMP_EQ, &v, 4);
}

static void ret(void)
{
	size_t a, b;
	expr("immediate");
	be32(NFTA_IMMEDIATE_DREG, NFT_REG_VERDICT);
	a = nest(NFTA_IMMEDIATE_DATA);
	b = nest(NFTA_DATA_VERDICT);
	be32(NFTA_VERDICT_CODE, NFT_RETURN);
	close_attr(b);
	close_attr(a);
	end();
	close_attr(r_exprs);
	close_msg();
}

static void redirect(int p)
{
	__be16 v = htons(p);
	expr("immediate");
	be32(NFTA_IMMEDIATE_DREG, NFT_REG_1);
	value(NFTA_IMMEDIATE_DATA, &v, 2);
	end();
	expr("redir");
	be32(NFTA_REDIR_REG_PROTO_MIN, NFT_REG_1);
	be32(NFTA_REDIR_FLAGS, NF_NAT_RANGE_PROTO_SPECIFIED);
	end();
	close_attr(r_exprs);
	close_msg();
}

static const char *table = "transept_cart-1";

static void rule(const char *chain)
{
	nft(NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND);
	str(NFTA_RULE_TABLE, table);
	str(NFTA_RULE_CHAIN, chain);
	r_exprs = nest(NFTA_RULE_EXPRESSIONS);
}

static void chain(const char *name, int hook)
{
	size_t at;
	nft(NFT_MSG_NEWCHAIN, NLM_F_CREATE);
	str(NFTA_CHAIN_TABLE, table);
	str(NFTA_CHAIN_NAME, name);
	str(NFTA_CHAIN_TYPE, "nat");
	be32(NFTA_CHAIN_POLICY, NF_ACCEPT);
	at = nest(NFTA_CHAIN_HOOK);
	be32(NFTA_HOOK_HOOKNUM, hook);
	be32(NFTA_HOOK_PRIORITY, -110);
	close_attr(at);
	close_msg();
}

static void tcp(void) { meta8(NFT_META_L4PROTO, IPPROTO_TCP); }

int main(void)
{
	static const char comment[] = "transept cart-1 pid=7 started=8 pidns=9";
	char userdata[128] = { 0, sizeof comment };
	char lo[16] = "lo";

	memcpy(userdata + 2, comment, sizeof comment);
	open_msg(NFNL_MSG_BATCH_BEGIN, 0, AF_UNSPEC, NFNL_SUBSYS_NFTABLES);
	close_msg();
	nft(NFT_MSG_NEWTABLE, NLM_F_CREATE);
	str(NFTA_TABLE_NAME, table);
	be32(NFTA_TABLE_FLAGS, 0);
	close_msg();
	nft(NFT_MSG_DELTABLE, 0);
	str(NFTA_TABLE_NAME, table);
	close_msg();
	nft(NFT_MSG_NEWTABLE, NLM_F_CREATE);
	str(NFTA_TABLE_NAME, table);
	be32(NFTA_TABLE_FLAGS, 0);
	raw(NFTA_TABLE_USERDATA, userdata, 2 + sizeof comment);
	close_msg();

	chain("output", NF_INET_LOCAL_OUT);
	rule("output"); meta32(NFT_META_MARK, NFT_CMP_EQ, 0x539); ret();
	rule("output"); meta32(NFT_META_SKUID, NFT_CMP_EQ, 1337); ret();
	rule("output"); meta32(NFT_META_SKUID, NFT_CMP_NEQ, 1000); ret();
	rule("output"); dest(AF_INET, "127.0.0.53", "255.255.255.255"); meta8(NFT_META_L4PROTO, IPPROTO_UDP); port(53); redirect(15053);
	rule("output"); dest(AF_INET, "127.0.0.53", "255.255.255.255"); tcp(); port(53); redirect(15053);
	rule("output"); dest(AF_INET, "240.7.8.9", "255.255.255.255"); tcp(); port(80); redirect(20001);
	rule("output"); tcp(); dest(AF_INET, "240.0.0.0", "240.0.0.0"); redirect(1);
	rule("output"); dest(AF_INET, "127.0.0.0", "255.0.0.0"); ret();
	rule("output"); dest(AF_INET6, "::1", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"); ret();
	rule("output"); dest(AF_INET, "10.0.0.0", "255.128.0.0"); ret();
	rule("output"); dest(AF_INET6, "fd00::", "ff00::"); ret();
	rule("output"); tcp(); port(5432); ret();
	rule("output"); tcp(); local(); ret();
	rule("output"); tcp(); syn(); redirect(15001);

	chain("prerouting", NF_INET_PRE_ROUTING);
	rule("prerouting"); meta(NFT_META_IIFNAME, NFT_CMP_EQ, lo, 16); ret();
	rule("prerouting"); tcp(); port(15008); ret();
	rule("prerouting"); tcp(); port(15006); ret();
	rule("prerouting"); tcp(); port(22); ret();
	rule("prerouting");
	((struct nlmsghdr *)buf)->nlmsg_flags |= NLM_F_ACK;
	tcp(); local(); port(8080); redirect(15006);

	open_msg(NFNL_MSG_BATCH_END, 0, AF_UNSPEC, NFNL_SUBSYS_NFTABLES);
	close_msg();
	return 0;
}
