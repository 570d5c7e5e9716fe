"""Python's smtplib as a mail client: every way to log in that it knows, and SCRAM by hand.

Arguments: the ports of implicit TLS and of STARTTLS, the user, its password, a user with a SCRAM
verifier. Prints one line for each message that was accepted.
"""

import base64
import hashlib
import hmac
import smtplib
import ssl
import sys
from email.message import EmailMessage

implicit, starttls, user, password, scram_user = sys.argv[1:]
trusting = ssl.create_default_context()
trusting.check_hostname = False
trusting.verify_mode = ssl.CERT_NONE


def message(subject, sender=user):
    mail = EmailMessage()
    mail["From"] = sender
    mail["To"] = "you@box.example"
    mail["Subject"] = subject
    mail.set_content(".leading dot\nGrüße\n" + "x" * 70 + "\n")
    return mail


def send(client, subject, sender=user):
    client.send_message(message(subject, sender))
    print(subject)
    client.quit()


def plain():
    client = smtplib.SMTP_SSL("127.0.0.1", int(implicit), context=trusting, timeout=20)
    client.login(user, password)
    return client


def login():
    client = smtplib.SMTP("127.0.0.1", int(starttls), timeout=20)
    client.starttls(context=trusting)
    client.ehlo()
    client.user, client.password = user, password
    client.auth("LOGIN", client.auth_login)
    return client


def challenged():
    client = smtplib.SMTP_SSL("127.0.0.1", int(implicit), context=trusting, timeout=20)
    client.ehlo()
    client.user, client.password = user, password
    client.auth("PLAIN", client.auth_plain, initial_response_ok=False)
    return client


class Scram:
    """RFC 5802 and 7677, written for this test."""

    def __init__(self, name, secret):
        self.bare = f"n={name},r=rOprNGfwEbeRWgbNEkqO"
        self.secret = secret.encode()
        self.step = 0

    def __call__(self, challenge=None):
        if challenge is None:
            return None
        self.step += 1
        text = challenge.decode()
        if self.step == 1:
            return "n,," + self.bare
        if self.step == 2:
            fields = dict(part.split("=", 1) for part in text.split(","))
            salt = base64.b64decode(fields["s"])
            salted = hashlib.pbkdf2_hmac("sha256", self.secret, salt, int(fields["i"]))
            sign = lambda key, data: hmac.new(key, data, "sha256").digest()
            client_key = sign(salted, b"Client Key")
            final = f"c=biws,r={fields['r']}"
            signed = ",".join([self.bare, text, final]).encode()
            signature = sign(hashlib.sha256(client_key).digest(), signed)
            proof = bytes(a ^ b for a, b in zip(client_key, signature))
            self.server = base64.b64encode(sign(sign(salted, b"Server Key"), signed)).decode()
            return final + ",p=" + base64.b64encode(proof).decode()
        assert text == "v=" + self.server, "the server does not know the password"
        return ""


def scram(secret):
    client = smtplib.SMTP_SSL("127.0.0.1", int(implicit), context=trusting, timeout=20)
    client.ehlo()
    assert "SCRAM-SHA-256" in client.esmtp_features["auth"].split()
    exchange = Scram(scram_user, secret)
    code, reply = client.docmd("AUTH", "SCRAM-SHA-256")
    while code == 334:
        answer = exchange(base64.b64decode(reply))
        code, reply = client.docmd(base64.b64encode(answer.encode()).decode())
    if code != 235:
        raise smtplib.SMTPAuthenticationError(code, reply)
    return client


send(plain(), "plain")
send(login(), "login")
send(challenged(), "challenged")
send(scram(password), "scram", scram_user)
try:
    scram("not the password")
except smtplib.SMTPAuthenticationError as error:
    assert error.smtp_code == 535
    print("refused")
