"""Names of people in a text, by their form: a guess, for who reads to find his way."""

from __future__ import annotations

import re
from collections import Counter

NAME = re.compile(r"[A-Z][\w'’-]+(?: [A-Z][\w'’-]+){1,2}")
CHINESE_NAME = re.compile(
    "[王李张刘陈杨赵黄周吴徐孙胡朱高林何郭马罗梁宋郑谢韩唐冯于董萧程曹袁邓许傅沈曾彭吕苏卢蒋蔡贾丁"
    "魏薛叶阎余潘杜戴夏钟汪田任姜范方石姚谭廖邹熊金陆郝孔白崔康毛邱秦江史顾侯邵孟龙万段钱汤尹黎易"
    "常武乔贺赖龚文][\u4e00-\u9fff]{1,2}?(?=[住在的于出生是，：电手邮])"
)


def common_name(text: str) -> str | None:
    """The name that stands most often in a text; None without one."""
    names = Counter(NAME.findall(text))
    return plain_name(names.most_common(1)[0][0]) if names else None


def plain_name(name: str) -> str:
    """A name without the ending of its genitive."""
    return name.removesuffix("'s").removesuffix("’s")
