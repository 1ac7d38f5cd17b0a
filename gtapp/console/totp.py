"""The second factor: codes that change every 30 seconds (RFC 6238), and recovery codes for a lost phone."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Callable

import pyotp
import segno

from gtapp.console.database import Database

STEP_S = 30
AROUND = (0, -1, 1)  # steps that a clock may be off
RECOVERY_CODES = 10
ISSUER = "GT"


class Factor:
    """That of the administrator. Each method raises StorageError."""

    def __init__(self, db: Database, clock: Callable[[], float]) -> None:
        self._db = db
        self._clock = clock

    def active(self) -> bool:
        row = self._db.row("SELECT secret FROM factor")
        return row is not None and bool(row["secret"])

    def begin(self) -> str:
        """A new secret, which counts when `confirm` has seen a code of it."""
        secret = pyotp.random_base32()
        self._db.execute(
            "INSERT INTO factor VALUES (1, '', ?1, 0, 0) ON CONFLICT (one) DO UPDATE SET pending = ?1",
            (secret,),
        )
        return secret

    def pending(self) -> str:
        """The secret of `begin`, "" when there is none."""
        row = self._db.row("SELECT pending FROM factor")
        return row["pending"] if row is not None else ""

    def confirm(self, code: str) -> list[str] | None:
        """From now on the factor is asked for: the recovery codes, to be shown this once. None: a wrong code."""
        pending = self.pending()
        step = self._step(pending, code, 0) if pending else None
        if step is None:
            return None
        with self._db.transaction() as connection:
            connection.execute(
                "UPDATE factor SET secret = pending, pending = '', last_step = ?, since = ?",
                (step, self._clock()),
            )
        return self.new_recovery_codes()

    def check(self, code: str) -> bool:
        """Whether it is right, of the phone or of the recovery codes; each counts only once."""
        code = "".join(code.split()).replace("-", "").lower()
        row = self._db.row("SELECT secret, last_step FROM factor")
        if row is None or not row["secret"]:
            return False
        step = self._step(row["secret"], code, row["last_step"])
        if step is not None:
            used = "UPDATE factor SET last_step = ?1 WHERE last_step < ?1"
            return self._db.execute(used, (step,)) == 1
        used = "UPDATE recovery SET used = ? WHERE hash = ? AND used IS NULL"
        return self._db.execute(used, (self._clock(), _hash(code))) == 1

    def new_recovery_codes(self) -> list[str]:
        """Those before are worth nothing any more."""
        codes = [base64.b32encode(secrets.token_bytes(10)).decode().lower() for _ in range(RECOVERY_CODES)]
        with self._db.transaction() as connection:
            connection.execute("DELETE FROM recovery")
            connection.executemany(
                "INSERT INTO recovery VALUES (?, NULL)", [(_hash(each),) for each in codes]
            )
        return ["-".join(code[at : at + 4] for at in range(0, len(code), 4)) for code in codes]

    def recovery_codes_left(self) -> int:
        row = self._db.row("SELECT count(*) AS n FROM recovery WHERE used IS NULL")
        return row["n"] if row is not None else 0

    def remove(self) -> None:
        """The password is enough from now on."""
        with self._db.transaction() as connection:
            connection.execute("DELETE FROM factor")
            connection.execute("DELETE FROM recovery")

    def _step(self, secret: str, code: str, last: int) -> int | None:
        """The step whose code it is, if that is later than `last`."""
        code = "".join(code.split())
        now = int(self._clock()) // STEP_S
        found = None
        for step in (now + each for each in AROUND):
            right = hmac.compare_digest(
                pyotp.TOTP(secret).generate_otp(step).encode(), code.encode(errors="replace")
            )
            if right and step > last:
                found = step
        return found


def address_of(secret: str, name: str, host: str) -> str:
    """What the app on the phone reads."""
    return pyotp.TOTP(secret).provisioning_uri(name=f"{name}@{host}", issuer_name=ISSUER)


def picture_of(text: str) -> str:
    """A QR code as the source of an <img>."""
    return segno.make(text, error="m").svg_data_uri(scale=5, border=4, light="#fff", dark="#000")


def _hash(code: str) -> str:
    return hashlib.sha256(code.encode(errors="surrogatepass")).hexdigest()
