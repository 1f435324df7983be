# Reads TLS reports that came by mail, with nothing of stsrelay: Debian's Python
# takes the message apart, dkimpy verifies the signature as a receiver of TLS
# reports does (RFC 8460, Section 3), and the JSON is held against Section 4.4.
# usage: read_reports.py RECORD MESSAGE...   RECORD: a file with the DKIM key record
import email, email.policy, gzip, json, sys
from datetime import datetime

import dkim

record = open(sys.argv[1], "rb").read()
for path in sys.argv[2:]:
    raw = open(path, "rb").read()
    if not dkim.verify(raw, dnsfunc=lambda name, timeout=5: record, tlsrpt=True):
        sys.exit(f"{path}: the signature does not verify")
    message = email.message_from_bytes(raw, policy=email.policy.default)
    assert message.get_content_type() == "multipart/report", message.get_content_type()
    assert message.get_param("report-type") == "tlsrpt"
    assert not message.defects, message.defects
    text, report = message.get_payload()
    assert text.get_content_type() == "text/plain"
    assert report.get_content_type() == "application/tlsrpt+gzip", report.get_content_type()
    r = json.loads(gzip.decompress(report.get_payload(decode=True)))
    for key in ("organization-name", "contact-info", "report-id"):
        assert isinstance(r[key], str) and r[key], key
    begin, end = (datetime.fromisoformat(r["date-range"][k].replace("Z", "+00:00")) for k in ("start-datetime", "end-datetime"))
    assert begin < end
    domain = message["TLS-Report-Domain"]
    assert f"Report Domain: {domain} Submitter: {message['TLS-Report-Submitter']}" in message["Subject"], message["Subject"]
    for p in r["policies"]:
        assert p["policy"]["policy-type"] in ("tlsa", "sts", "no-policy-found")
        assert all(isinstance(s, str) for s in p["policy"].get("policy-string", []) + p["policy"].get("mx-host", []))
        failed = p["summary"]["total-failure-session-count"]
        details = {d["result-type"]: d["failed-session-count"] for d in p.get("failure-details", [])}
        print(domain, p["policy"]["policy-type"], p["summary"]["total-successful-session-count"], failed, *sorted(details))
