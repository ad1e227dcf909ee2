"""A WHIP publisher of GStreamer's webrtcbin: `python3 gstreamer_whip.py FILE WHIP_URL SECONDS`.

Run by Debian's own Python, which has GStreamer's bindings; prints the place of the session.
"""

import sys
import urllib.parse
import urllib.request

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstWebRTC", "1.0")
gi.require_version("GstSdp", "1.0")
from gi.repository import GLib, Gst, GstSdp, GstWebRTC  # noqa: E402

file, url, seconds = sys.argv[1:]
Gst.init(None)
pipeline = Gst.parse_launch(
    "webrtcbin name=peer bundle-policy=max-bundle "
    f"filesrc location={file} ! decodebin ! audioconvert ! audioresample ! clocksync ! "
    "opusenc ! rtpopuspay pt=111 ! "
    "application/x-rtp,media=audio,encoding-name=OPUS,payload=111 ! peer."
)
peer = pipeline.get_by_name("peer")
loop = GLib.MainLoop()
place = ""


def send(method: str, target: str, body: bytes | None = None) -> tuple[str, str]:
    request = urllib.request.Request(target, body, method=method)
    request.add_header("Content-Type", "application/sdp")
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.read().decode(), answer.headers.get("Location") or ""


def make_offer(_: object) -> None:
    def done(promise: Gst.Promise) -> None:
        promise.wait()
        reply = promise.get_reply()  # it owns the offer
        offer = reply.get_value("offer")
        peer.emit("set-local-description", offer, Gst.Promise.new())

    peer.emit("create-offer", None, Gst.Promise.new_with_change_func(done))


def publish(_: object, __: object) -> None:
    global place
    if peer.get_property("ice-gathering-state") != GstWebRTC.WebRTCICEGatheringState.COMPLETE:
        return
    offer = peer.get_property("local-description").sdp.as_text()
    text, location = send("POST", url, offer.replace("a=sendrecv", "a=sendonly").encode())
    place = urllib.parse.urljoin(url, location)
    print(place, flush=True)
    _, message = GstSdp.SDPMessage.new_from_text(text)
    kind = GstWebRTC.WebRTCSDPType.ANSWER
    answer = GstWebRTC.WebRTCSessionDescription.new(kind, message)
    peer.emit("set-remote-description", answer, Gst.Promise.new())


peer.connect("on-negotiation-needed", make_offer)
peer.connect("notify::ice-gathering-state", publish)
pipeline.set_state(Gst.State.PLAYING)
GLib.timeout_add(int(float(seconds) * 1000), loop.quit)
loop.run()
if place:
    send("DELETE", place)
pipeline.set_state(Gst.State.NULL)
