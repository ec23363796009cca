"""Keys, tokens and passwords: by the form that their issuer gave them, or by the word beside them.

The forms are those that the issuers document, and that gitleaks and trufflehog look for too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

Span = tuple[int, int]

_FORMS = (
    # clouds
    r"(?:AKIA|ASIA|ABIA|ACCA|AGPA|AIDA|AROA|AIPA|ANPA|ANVA)[0-9A-Z]{16}",
    r"LTAI[A-Za-z0-9]{12,24}|AKID[A-Za-z0-9]{13,40}",
    r"AIza[0-9A-Za-z_-]{35}|ya29\.[0-9A-Za-z_-]{20,500}|1//0[0-9A-Za-z_-]{20,200}",
    r"GOCSPX-[0-9A-Za-z_-]{20,40}|[0-9]{6,20}-[0-9a-z]{32}\.apps\.googleusercontent\.com",
    r"[A-Za-z0-9_~.]{3}[0-9]Q~[A-Za-z0-9_~.-]{31,34}",
    r"do[opr]_v1_[0-9a-f]{64}|HRKU-[0-9A-Za-z_-]{30,80}|dapi[0-9a-f]{32}(?:-[0-9])?",
    r"hv[sb]\.[A-Za-z0-9_-]{20,300}|[A-Za-z0-9]{14}\.atlasv1\.[A-Za-z0-9_=-]{60,70}",
    # code
    r"gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_[A-Za-z0-9_]{22,255}",
    r"gl(?:pat|ptt|rt|dt|ft|soat|agent|imt|cbt)-[A-Za-z0-9_.-]{20,300}",
    r"npm_[A-Za-z0-9]{36}|pypi-[A-Za-z0-9_-]{50,255}|rubygems_[0-9a-f]{48}|dckr_pat_[\w-]{20,40}",
    r"ATATT3[A-Za-z0-9_=-]{50,250}|ATBB[A-Za-z0-9_=-]{24,40}|lin_api_[A-Za-z0-9]{40}",
    r"sgp_(?:[0-9A-Fa-f]{16}_)?[0-9A-Fa-f]{40}|glsa_[A-Za-z0-9]{32}_[0-9A-Fa-f]{8}",
    # models
    r"sk-[A-Za-z0-9_-]{20,250}|hf_[A-Za-z0-9]{30,64}|api_org_[A-Za-z]{34}|gsk_[A-Za-z0-9]{40,60}",
    r"r8_[A-Za-z0-9]{37}|xai-[A-Za-z0-9]{40,100}|pplx-[A-Za-z0-9]{40,60}",
    # payments
    r"[prs]k_(?:live|test|prod)_[0-9A-Za-z]{10,255}|whsec_[A-Za-z0-9+/=]{24,80}",
    r"sq0(?:atp|csp|idp)-[0-9A-Za-z_-]{22,60}|EAAA[A-Za-z0-9_-]{60}|shp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}",
    r"access_token\$production\$[0-9a-z]{16}\$[0-9a-f]{32}",
    # messages
    r"xox[abeoprs](?:(?:[-_\n]|\s[-.]\s|\.\s)[A-Za-z0-9]{10,40}){2,4}"
    r"|xox[abeoprs](?:\.xox[bp])?-[A-Za-z0-9-]{10,250}|xapp-[0-9]-[A-Za-z0-9-]{20,200}",
    r"SG\.[A-Za-z0-9_-]{16,32}\.[A-Za-z0-9_-]{16,64}|key-[0-9a-f]{32}|[0-9a-f]{32}-us[0-9]{1,2}",
    r"[0-9]{8,10}:AA[A-Za-z0-9_-]{32,34}|SK[0-9a-f]{32}|AC[0-9a-f]{32}|xkeysib-[0-9a-f]{64}-\w{16}",
    r"[MNO][A-Za-z0-9_-]{23,25}\.[A-Za-z0-9_-]{6}\.[A-Za-z0-9_-]{27,40}",
    r"EAACEdEose0cBA[0-9A-Za-z]{10,200}|sntry[su]_[A-Za-z0-9+/=_-]{40,250}",
    r"PMAK-[0-9a-f]{24}-[0-9a-f]{34}|secret_[A-Za-z0-9]{43}|ntn_[A-Za-z0-9]{40,50}",
    r"NRAK-[A-Z0-9]{27}|figd_[A-Za-z0-9_-]{40,50}|pat[A-Za-z0-9]{14}\.[0-9a-f]{64}",
    # any
    r"eyJ[A-Za-z0-9_-]{8,2000}\.eyJ[A-Za-z0-9_-]{8,2000}(?:\.[A-Za-z0-9_-]{8,1000})?",
    r"AGE-SECRET-KEY-1[0-9A-Z]{58}|ops_eyJ[A-Za-z0-9+/]{40,2000}",
    r"A3-[A-Z0-9]{6}-(?:[A-Z0-9]{11}|[A-Z0-9]{6}-[A-Z0-9]{5})(?:-[A-Z0-9]{5}){3}",
)
_FORM = re.compile(rf"(?<![A-Za-z0-9_])(?:{'|'.join(_FORMS)})(?![A-Za-z0-9])")
_WEBHOOK = re.compile(
    r"hooks\.slack\.com/(?:services|workflows|triggers)/(?P<slack>[A-Za-z0-9+/]{20,120})"
    r"|discord(?:app)?\.com/api/webhooks/(?P<discord>\d{15,21}/[\w-]{40,100})"
)
# Also cut short: what follows an opening line is the key, as far as it looks like one.
_BLOCK = re.compile(
    r"-----BEGIN (?P<name>[A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)?)-----"
    r"(?:[\s\S]{0,8192}?-----END (?P=name)-----|(?:\s*[A-Za-z0-9+/=:,. -]{1,200}(?:\n|\Z)){0,120})"
)
_URL_PASSWORD = re.compile(
    r"\b[a-z][a-z0-9+.-]{1,30}://[^\s/:@\"'<>]{0,80}:(?P<value>[^\s/@\"'<>]{1,100})@(?=[\w\[])",
    re.IGNORECASE,
)
_NAMED = re.compile(
    r"(?:api[ _-]?key|access[ _-]?key|account[ _-]?key|private[ _-]?key|auth[ _-]?token|secret"
    r"|token|bearer|pass(?:word|wd|phrase|code)?|pwd|passwor[td]|kennwort|mot de passe|contraseña"
    r"|senha|parola d'ordine|hasło|пароль|密码|口令|密钥|パスワード|비밀번호)"
    r"(?P<link>[\"'\]]{0,2}\s{0,3}(?:(?:is|ist|lautet|est|es|è|é|jest)\s|=>?|:=?|是|为|は)\s{0,3}[\"'`]?"
    r"|\s+[\"'`])"
    r"(?P<value>[^\s\"'`;,，。；]{6,200})",
    re.IGNORECASE,
)
_AUTHORIZATION = re.compile(
    r"authorization[\"']?\s{0,3}:\s{0,3}[\"']?(?:basic|bearer|token)\s(?P<value>[\w=~@.+/-]{8,2000})",
    re.IGNORECASE,
)
_AWS_SECRET = re.compile(
    r"(?:aws|secret|key)[^\n]{0,40}?(?<![A-Za-z0-9/+=])(?P<value>(?=[^\s]*\d)(?=[^\s]*[a-z])"
    r"(?=[^\s]*[A-Z])[A-Za-z0-9/+]{40})(?![A-Za-z0-9/+=])",
    re.IGNORECASE,
)
_WORDS = re.compile(r"[a-z]+\d{0,2}[a-z]*(?:[-_][a-z]+)+|[a-z]+|\d+|[A-Z][a-z]+\d", re.ASCII)


def find_keys(text: str) -> Iterator[Span]:
    """Spans [start, end) of keys in a folded text."""
    for match in _BLOCK.finditer(text):
        yield match.start(), match.start() + len(match[0].rstrip())
    for match in _FORM.finditer(text):
        # An identifier in words, such as sk-learn-contrib-something, is no key.
        if not match[0].startswith("sk-") or any(map(str.isdigit, match[0])):
            yield match.span()
    for match in _WEBHOOK.finditer(text):
        yield match.span(match.lastgroup or 0)
    for pattern in (_URL_PASSWORD, _AUTHORIZATION, _AWS_SECRET):
        for match in pattern.finditer(text):
            yield match.span("value")
    for match in _NAMED.finditer(text):
        value = match["value"].rstrip(".!?)]}>")
        if len(value) >= 6 and _is_secret(value):
            yield match.start("value"), match.start("value") + len(value)


def _is_secret(value: str) -> bool:
    """Whether what is called a secret may be one: letters and digits or signs, not words."""
    if _WORDS.fullmatch(value) or re.fullmatch(
        r"\$?\{.*|<.*|\(.*|.*\(.*\)?|.*://.*|.*[.]{3}", value
    ):
        return False
    has_letter = any(sign.isalpha() for sign in value)
    has_digit = any(sign.isdigit() for sign in value)
    has_sign = bool(re.search(r"[!#$%^&*+~?|]", value))
    return has_letter and (has_digit or has_sign)
