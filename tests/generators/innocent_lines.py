"""Lines without anything private that look as if they had: traps for detectors.

In a template `#` is a digit, `%` a digit from 1 to 9, `$` a hexadecimal digit, `@Y` a year.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

_ENGLISH = """
Order number @Y%#%# has shipped
order #%####### was cancelled
number of records: %#######
The number of residents rose to % ### ###
about %,###,### people call this city home
contact years @Y-@Y
pages %##-1### of the book
ISBN 978-3-16-148410-0
ISSN %###-###% and volume %#
release %#.1#.% build @Y.04.%##
version %.#.%.# of the driver
at 40.%#####, -74.0#####
pi is 3.14159265358979
She was born in a town with 1/2/3 rules
The war began on 1 September 19%#.
The museum opened on March %, 19%#.
published on @Y-0%-1%
It happened on 12/0%/@Y at noon
The token is word2vec-based
The password must be changed every ninety days
your password: ********
set the secret to <your-token-here>
token: ${API_TOKEN}
the api key is required
a bearer of good news
sk-learn-contrib and sk-image are libraries
an e-mail @ noon, user@localhost
follow @heron_%# for news
meet me at the corner dot the i's
look at example.com for more
git@github.com:heron/tools.git is the remote without a person
commit $$$$$$$$$$$$$$$$$$$$$$$$$$$$$$$$$$$$$$$$ fixed it
id $$$$$$$$-$$$$-4$$$-a$$$-$$$$$$$$$$$$ in the log
sha256:$$$$$$$$$$$$$$$$$$$$$$$$$$$$$$$$$$$$$$$$$$$$$$$$$$$$$$$$$$$$$$$$
from @Y to @Y, or @Y/##
@Y-1%-0% 12:%0:00 INFO started in %### ms
timestamp 16%#######
epoch 16%#######000
The IP range 192.168.0.0/16 is local
listening on 127.0.0.1:80%#
the score was 3-%, 5-%, 7-6
between 100-200 and 300-400 units
rows 1##-2## and columns %#-3#
a resolution of 1920x1080 at 60 Hz
$%,###,###.## in revenue
EUR 1.##%.###,##
%% %## %## kilometres
part number 4%-%###-###
serial %###-%### rev B
invoice %####### of May
ticket 5##-%##% is closed
case no. @Y-%###
room %##, floor 1#, building %
Flight %### leaves at 1%:35 from gate %#
bus %# to stop %###
recipe: 2 eggs, 350 g flour, 180 degrees, %# minutes
in 12 years the Street changed
5 Stars Way better than the %th
the 3rd Avenue of attack
RFC %### and ISO 639-3166
10.1000/%#%.## is its DOI
arXiv:24%#.#####
PMID %#######
CVE-@Y-%####
Chapter 12.3.%#, section 4.%
line %###: undefined name
0x%###$$$$ is the address of the buffer
coordinates 51.5%##, -0.1%##
GB82 WEST 1234 5698 7654 33 fails its checksum
order 4111 1111 1111 1112 is no card
000-45-%### and 666-12-%### are no such numbers
the ratio is 1:%##:%###
Psalm 119:105-1%#
temperature -%#.# to %#.# degrees
%## of %,### respondents (12.%%)
a %###-word essay
the year @Y saw %### births
UTC+0%:30 is the zone
http://example.org/item/%#######?page=%
https://example.org/a/b/c#d%###
population: %##,### (@Y)
model 5##-%##%-X
batch @Y%#%#-0%
zip code %####
the numbers 4 8 15 16 23 42
lottery: 0% 1% 2% 3% 4%
E = mc2 and 6.022e23
c = 299 792 458 m/s
Article 5##-%### of the code
tracking number 1Z%##AA1%#######%#
reached %####### visitors
calls the function foo_%####### twice
The call center handled %## calls on Monday.
she called it a day
contact lenses cost %## dollars
Contact us in @Y or @Y
Her birthday party was great
He was born to run
birth rate of 12.% per 1,000
""".strip().splitlines()

_OTHERS = {
    "de_DE": """
Bestellnummer @Y%#%#
Rechnung Nr. %####### vom 1%.0%.@Y
Die Zahl der Einwohner stieg auf % ### ###
Seiten %##-%##% im Buch
am 3. Oktober 1990 wurde gefeiert
im Jahr @Y geboren wurden %.### Kinder
1%:30 Uhr in Raum %##
Version %.#.%# vom Mai
%.###.### Euro Umsatz
PLZ %####
ISBN 978-3-16-148410-0
die Straße führt 12 km nach Norden
Artikel 5, Absatz %#
Das Passwort muss geändert werden
""",
    "fr_FR": """
Commande n° @Y%#%#
Facture %####### du 1% mars @Y
le nombre d'habitants est de % ### ###
pages %## à %##%
le 14 juillet 1789
en @Y, %## naissances
à 1%h30, salle %##
version %.#.%#
%### ### euros
article %## du code
la rue compte 12 maisons
ISBN 978-3-16-148410-0
le mot de passe doit changer
""",
    "es_ES": """
Pedido número @Y%#%#
Factura %####### del 1% de marzo
la población llegó a %.###.###
páginas %##-%##%
el 2 de mayo de 1808 empezó
en @Y hubo %## nacimientos
a las 1%:30 en la sala %##
versión %.#.%#
%.###.### euros
la calle tiene 12 casas
artículo %## de la ley
la contraseña debe cambiar
""",
    "it_IT": """
Ordine numero @Y%#%#
Fattura %####### del 1% marzo
gli abitanti sono %.###.###
pagine %##-%##%
il 2 giugno 1946 si votò
nel @Y ci furono %## nascite
alle 1%:30 in aula %##
versione %.#.%#
%.###.### euro
la via ha 12 case
articolo %## della legge
""",
    "pt_BR": """
Pedido número @Y%#%#
Nota %####### de 1% de março
a população chegou a %.###.###
páginas %##-%##%
em 7 de setembro de 1822
em @Y houve %## nascimentos
às 1%:30 na sala %##
versão %.#.%#
R$ %.###.###,##
a rua tem 12 casas
artigo %## da lei
""",
    "zh_CN": """
订单号：@Y%#%#
编号 %#######
@Y年5月1日放假
人口为%######人
第%##页至第%##页
他走在路上，3号会议室
版本 %.#.%#
11010519491231002Y 不是身份证
110105194912310021 也不是
共%###元
@Y年至@Y年
%#路公共汽车
电话会议在三点开始
密码必须修改
""",
    "ja_JP": """
注文番号 @Y%#%#
@Y年5月1日に発売
人口は%######人
%##ページから%##ページ
3番ホームから出発
バージョン %.#.%#
合計%###円
@Y年から@Y年まで
第%#回大会
電話は苦手です
パスワードは必須です
""",
    "en_IN": """
Rs. %,##,###.##
invoice no. %#######
the lakh is 1,00,000
GST of 1% per cent since @Y
platform %# at 1%:40
population of %,##,##,###
train 12%## to Pune
PIN code %#####
""",
    "en_GB": """
£%,###.## was raised
the A%# and the M2#
page %## of %##
on 5 November 1605
the 1%:45 from platform %
order ref. %#######
clause %#.%(b)
batch %###/%###
""",
}


def innocent_lines(random: Random) -> Iterator[tuple[str, str]]:
    """Locale and text of each line: English ones thrice, the others twice."""
    seen: set[str] = set()
    for _ in range(3):
        for template in _ENGLISH:
            seen.add(text := _filled(template, random))
            yield "en_US", text
    for _ in range(2):
        for locale, templates in _OTHERS.items():
            for template in templates.strip().splitlines():
                text = _filled(template, random)
                if text not in seen:
                    seen.add(text)
                    yield locale, text


def _filled(template: str, random: Random) -> str:
    years = template.count("@Y")
    for _ in range(years):
        template = template.replace("@Y", str(random.randint(1950, 2029)), 1)
    alphabets = {"#": "0123456789", "%": "123456789", "$": "0123456789abcdef"}
    is_hex = "$$" in template or "0x" in template
    return "".join(
        random.choice(alphabets[sign]) if sign in alphabets and (sign != "$" or is_hex) else sign
        for sign in template
    )
