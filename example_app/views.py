"""The pages: sign up, sign in, reset the password, upload a table, invite others.

Five of them send mail. Signing up and inviting do so in the transaction of ``db.session``: no
account without its mail, no mail without its account. The others have nothing to commit, or have
committed it before.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from flask import (
    Blueprint,
    abort,
    current_app,
    flash,
    g,
    redirect,
    render_template,
    request,
    session,
    url_for,
)
from sqlalchemy.exc import IntegrityError
from werkzeug.security import generate_password_hash
from werkzeug.utils import secure_filename
from werkzeug.wrappers import Response

from flask_deferred_mail import Attachment, send_after_response
from flask_deferred_mail.errors import MessageError, StoreError

from .accounts import (
    Account,
    Invitation,
    account_of_token,
    account_with_email,
    account_with_id,
    reset_token,
    set_password,
    sign_in,
)
from .database import db
from .report import Report, UnreadableTable, summarise

pages = Blueprint("pages", __name__)

SHORTEST_PASSWORD = 10
MOST_INVITATIONS = 5
LINK_IS_OVER = "This link was used already, or is too old. Ask for a new one."
View = str | Response | tuple[str, int]


# -- sign up ----------------------------------------------------------------------------------


@pages.get("/sign-up")
def sign_up() -> View:
    """The form."""
    return render_template("sign_up.html")


@pages.post("/sign-up")
def sign_up_submitted() -> View:
    """Make the account, answer, and let the welcome mail follow."""
    name, email, password = typed("name"), typed("email"), typed("password", strip=False)
    problem = fault_of_name(name) or fault_of_password(password)
    if not problem:
        try:
            remember(register(name, email, password))
            return redirect(url_for(".home"), 303)
        except IntegrityError:
            problem = "There is an account with this address already. Sign in, or reset it."
        except MessageError as error:
            if not error.field.startswith("recipients"):
                raise  # our own mistake, in a template perhaps: nothing that the visitor can mend
            problem = f"We cannot mail to “{email[:80]}”: {error.problem}"
    return render_template("sign_up.html", problem=problem), 400


def register(name: str, email: str, password: str) -> Account:
    """The account and its welcome mail, in one transaction: both, or neither.

    Raises ``IntegrityError`` if there is such an account; the mail is rolled back with it.
    """
    account = Account(name=name, email=email, password_hash=generate_password_hash(password))
    try:
        db.session.add(account)
        send_after_response(
            recipients=[email],
            template="mail/welcome",
            context={"name": name},
            session=db.session,
        )
        db.session.commit()
    except Exception:
        db.session.rollback()
        raise
    return account


# -- sign in and out --------------------------------------------------------------------------


@pages.get("/sign-in")
def sign_in_form() -> View:
    """The form."""
    return render_template("sign_in.html")


@pages.post("/sign-in")
def sign_in_submitted() -> View:
    """Sign in, or say that it did not fit without saying which of the two."""
    account = sign_in(typed("email"), typed("password", strip=False))
    if account is None:
        return render_template("sign_in.html", problem="Address or password do not fit."), 400
    remember(account)
    return redirect(url_for(".home"), 303)


@pages.post("/sign-out")
def sign_out() -> View:
    """Forget who this is."""
    session.clear()
    return redirect(url_for(".home"), 303)


# -- reset the password -----------------------------------------------------------------------


@pages.get("/reset")
def reset() -> View:
    """Ask for the address."""
    return render_template("reset_ask.html")


@pages.post("/reset")
def reset_submitted() -> View:
    """Mail the link. Says the same whether or not there is such an account."""
    account = account_with_email(typed("email"))
    if account is not None:
        link = current_app.config["EXAMPLE_PUBLIC_URL"] + url_for(
            ".choose_password", token=reset_token(account)
        )
        # To the address of the account, never to what was typed: the two may only look alike.
        # Without session=, the mail is recorded for good when the call returns.
        send_after_response(
            recipients=[account.email],
            template="mail/reset",
            context={"name": account.name, "link": link},
            # Somebody waits for it; and once the link is dead, the mail is of no use either.
            priority="high",
            expires_at=datetime.now(UTC)
            + timedelta(seconds=current_app.config["EXAMPLE_RESET_SECONDS"]),
        )
    flash("If there is an account with this address, a mail with a link is on its way to it.")
    return redirect(url_for(".home"), 303)


@pages.get("/reset/<token>")
def choose_password(token: str) -> View:
    """The form behind the link."""
    account_or_410(token)
    return render_template("reset_choose.html")


@pages.post("/reset/<token>")
def choose_password_submitted(token: str) -> View:
    """Set the new password; the link is used up by that."""
    account = account_or_410(token)
    password = typed("password", strip=False)
    problem = fault_of_password(password)
    if problem:
        return render_template("reset_choose.html", problem=problem), 400
    if not set_password(account, password):
        abort(410, LINK_IS_OVER)
    mail_password_changed(account)
    session.clear()
    flash("Your password is changed. Sign in with the new one.")
    return redirect(url_for(".sign_in_form"), 303)


def mail_password_changed(account: Account) -> None:
    """Committed first, mailed afterwards: the password is changed even if that cannot be told."""
    try:
        send_after_response(
            subject="Your password was changed",
            recipients=[account.email],
            body=f"Hello {account.name},\n\nyour password was changed just now.\n\nTally\n",
        )
    except StoreError:
        current_app.logger.exception("a new password was set, but its mail not recorded")


# -- the upload -------------------------------------------------------------------------------


@pages.get("/")
def home() -> View:
    """What the site does; for somebody signed in, the form to upload a table."""
    return render_template("home.html")


@pages.post("/tables")
def table_uploaded() -> View:
    """Summarise the table and mail the summary to whoever uploaded it, and to nobody else."""
    account = signed_in()
    if account is None:
        abort(403, "Sign in first: the summary goes to the address of your account.")
    upload = request.files.get("table")
    if upload is None or not upload.filename:
        return render_template("home.html", problem="Choose a file first."), 400
    try:
        report = summarise(secure_filename(upload.filename)[-60:] or "table", upload.read())
    except UnreadableTable as error:
        return render_template("home.html", problem=str(error)), 400
    mail_report(account, report)
    flash(f"The summary of {report.file_name} is on its way to {account.email}.")
    return redirect(url_for(".home"), 303)


def mail_report(account: Account, report: Report) -> None:
    """The report: shown in the mail, and attached as a table."""
    send_after_response(
        recipients=[account.email],
        template="mail/report",
        context={"name": account.name, "report": report},
        attachments=[Attachment("summary.csv", "text/csv", report.as_csv())],
    )


# -- invitations ------------------------------------------------------------------------------


@pages.post("/invitations")
def invitations_submitted() -> View:
    """Invite some addresses, each of them once and for all."""
    account = signed_in()
    if account is None:
        abort(403, "Sign in first: an invitation says who it is from.")
    emails = typed("emails").split()
    if not 0 < len(emails) <= MOST_INVITATIONS:
        problem = f"Name one address or up to {MOST_INVITATIONS}, with spaces between."
        return render_template("home.html", problem=problem), 400
    left_out = [email for email in emails if not invite(account, email)]
    db.session.commit()
    flash(f"Invited: {len(emails) - len(left_out)} of {len(emails)}.")
    if left_out:
        flash("Invited before, or no address to mail to: " + ", ".join(left_out))
    return redirect(url_for(".home"), 303)


def invite(account: Account, email: str) -> bool:
    """Add an invitation and its mail to the transaction, or neither of them; whether it did.

    What goes wrong takes back what is inside the savepoint, and leaves the other invitations.
    """
    try:
        with db.session.begin_nested():
            db.session.add(Invitation(email=email, account_id=account.id))
            send_after_response(
                recipients=[email],
                template="mail/invitation",
                context={"name": account.name},
                session=db.session,
            )
    except (IntegrityError, MessageError):
        return False
    return True


# -- who is there, and what they typed --------------------------------------------------------


@pages.app_context_processor
def who() -> dict[str, object]:
    """Templates ask ``signed_in()``, so that pages which do not care read no database."""
    return {"signed_in": signed_in}


def remember(account: Account) -> None:
    """Start a new session: whatever was in the old one does not come along."""
    session.clear()
    session["account"] = [account.id, account.seal]


def signed_in() -> Account | None:
    """Whose session this is, looked up once per request.

    A session from before a change of the password is over: it carries the old seal.
    """
    if "account" not in g:
        account_id, seal = session.get("account", (0, ""))
        account = account_with_id(account_id) if account_id else None
        g.account = account if account and account.seal == seal else None
    return g.account


def account_or_410(token: str) -> Account:
    """The account that a reset link is for; else a page that says what to do."""
    account = account_of_token(token)
    if account is None:
        abort(410, LINK_IS_OVER)
    return account


def typed(field: str, *, strip: bool = True) -> str:
    """What stands in a field of the form."""
    text = request.form.get(field, "").replace("\0", "")  # no database keeps that one
    return text.strip() if strip else text


def fault_of_name(name: str) -> str:
    """What is wrong with a name, or nothing."""
    if not name or len(name) > 80 or not name.isprintable():
        return "Tell us a name, of at most 80 characters."
    return ""


def fault_of_password(password: str) -> str:
    """What is wrong with a new password, or nothing."""
    if len(password) < SHORTEST_PASSWORD:
        return f"The password needs at least {SHORTEST_PASSWORD} characters."
    return ""
