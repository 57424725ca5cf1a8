"""What a container's programs see, a line of JSON each; started in its network namespace.

TCP and UDP on port 80 are sockets of the kernel's, which sends back what it gets and judges the
checksums itself. The kernel may have no SCTP: INIT chunks on port 9000 are read off the wire, and
answered as RFC 9260, 3.3.3 says.
"""

import hashlib
import json
import socket
import threading

from scapy.config import conf
from scapy.layers.inet import IP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.layers.sctp import SCTP, SCTPChunkData, SCTPChunkInit, SCTPChunkInitAck, crc32c
from scapy.sendrecv import AsyncSniffer, sendp

conf.verb = 0


def say(**seen):
    print(json.dumps(seen), flush=True)


def digest(data):
    return hashlib.sha256(data).hexdigest()


def plain(address):
    return address.removeprefix("::ffff:")


def serve_udp(server):
    while True:
        data, source = server.recvfrom(1 << 16)
        say(protocol="udp", source=plain(source[0]), length=len(data), digest=digest(data))
        server.sendto(data, source)


def serve_tcp(server):
    while True:
        connection, source = server.accept()
        data = connection.recv(1 << 16)
        say(protocol="tcp", source=plain(source[0]), length=len(data), digest=digest(data))
        connection.sendall(data)


def is_right(packet):
    """The checksum, over what was on the wire."""
    whole = bytes(packet.original) if packet.original else bytes(packet)
    return packet.chksum == crc32c(whole[:8] + bytes(4) + whole[12:])


def see_sctp(frame):
    packet, network = frame[SCTP], frame[IPv6] if IPv6 in frame else frame[IP]
    if packet.dport != 9000:
        return
    kind = "init" if SCTPChunkInit in packet else "data" if SCTPChunkData in packet else "other"
    say(protocol="sctp", kind=kind, source=network.src, right=is_right(packet))
    if kind == "init":
        answer = IPv6 if IPv6 in frame else IP
        back = answer(src=network.dst, dst=network.src) / SCTP(
            sport=packet.dport, dport=packet.sport, tag=packet[SCTPChunkInit].init_tag
        )
        back /= SCTPChunkInitAck(init_tag=7, a_rwnd=65535, n_out_streams=1, n_in_streams=1, init_tsn=1)
        sendp(Ether(src=frame[Ether].dst, dst=frame[Ether].src) / back, iface="eth0")


def bound(kind):
    server = socket.socket(socket.AF_INET6, kind)
    server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    server.bind(("::", 80))
    return server


udp, tcp = bound(socket.SOCK_DGRAM), bound(socket.SOCK_STREAM)
tcp.listen()
threading.Thread(target=serve_udp, args=(udp,), daemon=True).start()
threading.Thread(target=serve_tcp, args=(tcp,), daemon=True).start()
sniffer = AsyncSniffer(
    iface="eth0",
    lfilter=lambda frame: SCTP in frame and frame[Ether].dst != frame[Ether].src,
    prn=see_sctp,
    store=False,
    started_callback=lambda: say(protocol="ready"),
)
sniffer.start()
sniffer.join()
