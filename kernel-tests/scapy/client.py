"""Crafts packets to published ports and says what comes back, a line of JSON each.

Started on a host outside: client.py MAC HOST_V4 HOST_V6 CLIENT_V4 CLIENT_V6. The client's addresses
are nobody's: no kernel answers for them. What counts as an answer is scapy's own opinion.
"""

import hashlib
import json
import sys

from scapy.config import conf
from scapy.layers.inet import ICMP, IP, IPerror, IPOption_NOP, TCP, UDP, UDPerror, fragment
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6PacketTooBig,
    IPerror6,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    fragment6,
)
from scapy.layers.l2 import Ether
from scapy.layers.sctp import SCTP, SCTPChunkData, SCTPChunkInit, SCTPChunkInitAck, crc32c
from scapy.packet import Raw
from scapy.sendrecv import AsyncSniffer, sendp, srp1

conf.verb = 0
conf.iface = "eth0"
MAC, HOST_V4, HOST_V6, CLIENT_V4, CLIENT_V6 = sys.argv[1:]
PATIENCE = 5


def say(case, **seen):
    print(json.dumps({"case": case, **seen}), flush=True)


def network(version, **fields):
    if version == 4:
        return IP(src=CLIENT_V4, dst=HOST_V4, **fields)
    return IPv6(src=CLIENT_V6, dst=HOST_V6, **fields)


def ask(packet):
    return srp1(Ether(dst=MAC) / packet, timeout=PATIENCE)


def source(answer):
    return answer[IPv6].src if IPv6 in answer else answer[IP].src


def digest(data):
    return hashlib.sha256(bytes(data)).hexdigest()


def payload(length):
    return bytes(number * number % 251 for number in range(length))


def hear(packets, is_wanted):
    """The first frame that is wanted after the packets were sent."""
    heard = []
    sniffer = AsyncSniffer(
        lfilter=is_wanted,
        prn=heard.append,
        stop_filter=lambda frame: True,
        timeout=PATIENCE,
        started_callback=lambda: sendp([Ether(dst=MAC) / packet for packet in packets]),
    )
    sniffer.start()
    sniffer.join()
    return heard[0] if heard else None


def udp(case, version, port, length, head=None):
    data = payload(length)
    packet = (head or network(version)) / UDP(sport=port, dport=8080) / Raw(data)
    # An answer has no options, which scapy expects of one.
    answer = hear([packet], lambda frame: UDP in frame and frame[UDP].dport == port) if head else ask(packet)
    if answer is None:
        return say(case, answered=False)
    same = bytes(answer[UDP].payload)[:length] == data
    say(case, answered=True, source=source(answer), port=answer[UDP].sport, same=same)


def datagram_in_pieces(case, version, port, change=lambda pieces: pieces):
    """Sent in pieces of some 1 400 bytes; what comes back is pieces, too."""
    data = payload(4000)
    if version == 4:
        whole = network(4, id=port) / UDP(sport=port, dport=8080) / Raw(data)
        pieces = fragment(whole, fragsize=1400)
    else:
        head = network(6) / IPv6ExtHdrFragment(id=port)
        pieces = fragment6(head / UDP(sport=port, dport=8080) / Raw(data), 1400)
    heard = {}

    def take(frame):
        packet = frame[IPv6] if version == 6 else frame[IP]
        if packet.dst != (CLIENT_V4 if version == 4 else CLIENT_V6):
            return
        if version == 4:
            heard[packet.frag * 8] = (packet.src, bytes(packet.payload)[: packet.len - 20])
        elif IPv6ExtHdrFragment in packet:
            piece = packet[IPv6ExtHdrFragment]
            heard[piece.offset * 8] = (packet.src, bytes(piece.payload))

    def is_whole(_frame):
        return sum(len(part) for _source, part in heard.values()) >= 4008

    sniffer = AsyncSniffer(
        lfilter=lambda frame: (IPv6 if version == 6 else IP) in frame,
        prn=take,
        stop_filter=is_whole,
        store=False,
        timeout=PATIENCE,
        started_callback=lambda: sendp([Ether(dst=MAC) / piece for piece in change(pieces)]),
    )
    sniffer.start()
    sniffer.join()
    back = b"".join(part for _offset, (_source, part) in sorted(heard.items()))
    sources = sorted({source for source, _part in heard.values()})
    ports = int.from_bytes(back[:2], "big") if back else None
    say(case, answered=is_whole(None), source=sources, port=ports, same=back[8:4008] == data)


def tcp(case, version, port, head):
    def segment(flags, **fields):
        return head() / TCP(sport=port, dport=8080, flags=flags, window=65535, **fields)

    accepted = ask(segment("S", seq=1000, options=[("MSS", 1400), ("WScale", 3)]))
    if accepted is None or accepted[TCP].flags != "SA":
        return say(case, answered=False)
    after = {"seq": 1001, "ack": accepted[TCP].seq + 1}
    data = [segment("A", **after), segment("PA", **after) / Raw(payload(900))]
    echo = hear(data, lambda frame: TCP in frame and frame[TCP].dport == port and Raw in frame)
    same = echo is not None and bytes(echo[Raw])[:900] == payload(900)
    sendp(Ether(dst=MAC) / segment("R", seq=1901))
    say(case, answered=echo is not None, source=source(accepted), port=accepted[TCP].sport, same=same)


def sctp(case, version, port):
    packet = network(version) / SCTP(sport=port, dport=9001, tag=0)
    packet /= SCTPChunkInit(init_tag=5, a_rwnd=65535, n_out_streams=1, n_in_streams=1, init_tsn=1)
    answer = ask(packet)
    if answer is None or SCTP not in answer:
        return say(case, answered=False, summary=answer and answer.summary())
    whole = bytes(answer[SCTP].original)
    right = answer[SCTP].chksum == crc32c(whole[:8] + bytes(4) + whole[12:])
    accepted = SCTPChunkInitAck in answer and answer[SCTP].tag == 5
    say(case, answered=accepted, source=source(answer), port=answer[SCTP].sport, right=right)
    data = network(version) / SCTP(sport=port, dport=9001, tag=7)
    sendp(Ether(dst=MAC) / data / SCTPChunkData(tsn=1, beginning=1, ending=1, data=payload(1300)))


def refused(case, version, port):
    """Nobody listens there: the error must be about the packet that was sent."""
    unreachable = ICMP if version == 4 else ICMPv6DestUnreach
    packet = network(version) / UDP(sport=port, dport=9099) / Raw(payload(64))
    answer = hear([packet], lambda frame: unreachable in frame)
    if answer is None:
        return say(case, answered=False)
    quoted = answer[UDPerror]
    addressed = answer[IPerror].dst if version == 4 else answer[IPerror6].dst
    say(case, answered=True, source=source(answer), about=[addressed, quoted.dport, quoted.sport == port])


def too_big(case, version, port):
    """A router says that answers of the flow before are too long."""
    if version == 4:
        quoted = IP(src=HOST_V4, dst=CLIENT_V4) / UDP(sport=8080, dport=port) / Raw(payload(1400))
        error = IP(src="198.19.0.1", dst=HOST_V4) / ICMP(type=3, code=4, nexthopmtu=1300) / quoted
    else:
        quoted = IPv6(src=HOST_V6, dst=CLIENT_V6) / UDP(sport=8080, dport=port) / Raw(payload(1100))
        error = IPv6(src="fd99::1", dst=HOST_V6) / ICMPv6PacketTooBig(mtu=1300) / quoted
    sendp(Ether(dst=MAC) / error)
    say(case, answered=True)


# UDP answers of one flow each; the last one is what the routers' errors are about.
udp("udp v4", 4, 41001, 900)
udp("udp v6", 6, 41002, 900)
udp("udp v4, IP options", 4, 41003, 700, network(4, options=[IPOption_NOP(), IPOption_NOP()]))
udp("udp v6, destination options", 6, 41004, 700, network(6) / IPv6ExtHdrDestOpt())
for version in (4, 6):
    datagram_in_pieces(f"pieces v{version}", version, 41010 + version)
    twice = lambda pieces: [piece for piece in pieces for _twice in range(2)]
    datagram_in_pieces(f"pieces v{version}, each twice", version, 41020 + version, twice)
    tcp(f"tcp v{version}", version, 41030 + version, lambda: network(version))
    sctp(f"sctp v{version}", version, 41040 + version)
    refused(f"refused v{version}", version, 41050 + version)
    too_big(f"too big v{version}", version, 41001 if version == 4 else 41002)
tcp("tcp v4, ECN", 4, 41060, lambda: network(4, tos=3))
