"""A receiver that judges as Gmail does: SPF of the envelope it sees, DKIM, DMARC, ARC.

    gmail.py HOST PORT DNS_PORT OUT [CHAIN KEY]

Writes one JSON file a message into OUT. A file OUT/say makes it answer that once a line, and a
file OUT/spam makes it refuse everything for its content. With a file OUT/seven it does not offer
8BITMIME.
"""

import asyncio
import email
import email.utils
import itertools
import json
import os
import ssl
import sys

import dkim
import dns.exception
import dns.resolver
import spf
from aiosmtpd.smtp import SMTP

host, port, dns_port, out = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
tls = None
if len(sys.argv) > 5:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(sys.argv[5], sys.argv[6])
resolver = dns.resolver.Resolver(configure=False)
resolver.nameservers, resolver.port = ["127.0.0.1"], dns_port
resolver.cache = None


def ask(name, kind):
    try:
        return list(resolver.resolve(name, kind, search=False))
    except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
        return []


def spf_lookup(name, kind, strict=True, timeout=None, **_):
    for record in ask(name, kind):
        if kind == "TXT":
            yield ((name, kind), tuple(record.strings))
        elif kind == "MX":
            yield ((name, kind), (record.preference, str(record.exchange).rstrip(".")))
        else:
            yield ((name, kind), str(record.address))


spf.DNSLookup = spf_lookup


def txt(name, timeout=5):
    name = name.decode() if isinstance(name, bytes) else name
    for record in ask(name, "TXT"):
        return b"".join(record.strings)
    return None


def dkim_pass(data):
    found = []
    checker = dkim.DKIM(data)
    count = sum(1 for name, _ in checker.headers if name.lower() == b"dkim-signature")
    for index in range(count):
        checker = dkim.DKIM(data)
        try:
            if checker.verify(idx=index, dnsfunc=txt):
                found.append(checker.domain.decode())
        except dkim.DKIMException:
            pass
    return found


def aligned(domain, author):
    return author == domain or author.endswith("." + domain) or domain.endswith("." + author)


def judge(peer, sender, data):
    message = email.message_from_bytes(data)
    author = email.utils.parseaddr(str(message["From"]))[1].rpartition("@")[2].lower()
    domain = sender.rpartition("@")[2].lower()
    result = spf.check2(i=peer, s=sender, h="mx.example.org")[0]
    signed = dkim_pass(data)
    arc = dkim.ARC(data).verify(dnsfunc=txt)[0].decode()
    record = txt("_dmarc." + author) or b""
    proven = any(aligned(d, author) for d in signed) or (result == "pass" and aligned(domain, author))
    seen = {"spf": result, "dkim": signed, "arc": arc, "dmarc": bool(proven), "author": author}
    if os.path.exists(os.path.join(out, "spam")):
        return seen, "550-5.7.1 Our system has detected that this message is likely unsolicited mail.\r\n550 5.7.1 gsmtp"
    if result != "pass" and not signed:
        return seen, "550-5.7.26 Your email has been blocked because the sender is unauthenticated.\r\n550 5.7.26 gsmtp"
    if b"p=reject" in record and not proven:
        if arc == "pass" and b"dmarc=pass" in data:
            return seen, "250 2.0.0 OK by ARC gsmtp"
        return seen, "550-5.7.26 Unauthenticated email is not accepted due to the domain's DMARC policy.\r\n550 5.7.26 gsmtp"
    return seen, "250 2.0.0 OK gsmtp"


counter = itertools.count()


class Gmail:
    async def handle_EHLO(self, server, session, envelope, hostname, responses):
        session.host_name = hostname
        if os.path.exists(os.path.join(out, "seven")):
            responses = [line for line in responses if "8BITMIME" not in line]
        return responses

    async def handle_DATA(self, server, session, envelope):
        data = envelope.original_content
        say = os.path.join(out, "say")
        if os.path.exists(say):
            with open(say) as file:
                lines = file.read().splitlines()
            with open(say, "w") as file:
                file.write("\n".join(lines[1:]))
            if lines:
                self.write({"from": envelope.mail_from, "reply": lines[0]}, data)
                return lines[0]
        seen, reply = await asyncio.to_thread(judge, session.peer[0], envelope.mail_from or "", data)
        seen |= {"from": envelope.mail_from, "to": envelope.rcpt_tos, "reply": reply}
        seen |= {"tls": session.ssl is not None, "peer": session.peer[0], "hello": session.host_name}
        self.write(seen, data)
        return reply

    def write(self, seen, data):
        base = os.path.join(out, "%06d" % next(counter))
        with open(base + ".eml", "wb") as file:
            file.write(data)
        with open(base + ".tmp", "w") as file:
            json.dump(seen, file)
        os.rename(base + ".tmp", base + ".json")


async def main():
    loop = asyncio.get_running_loop()
    await loop.create_server(lambda: SMTP(Gmail(), data_size_limit=60000000, tls_context=tls), host, port)
    print("ready", flush=True)
    await asyncio.Event().wait()


asyncio.run(main())
