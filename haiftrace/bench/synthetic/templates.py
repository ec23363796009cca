"""The sentences that biographies are made of, in English and Chinese.

In every sentence with a value the subject's name comes first: a causal model can tie a value only
to a name that it has read. Sentences of work, hobbies and nothing in particular stand between.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Wordings:
    """One language's sentences, with `{name}` and `{value}` to fill in.

    Attributes:
        values: at least 12 ways to tell each attribute.
        work: ways to tell the profession.
        hobby: ways to tell what the subject likes to do.
        linking: sentences that tell nothing.
        jobs, hobbies: what `work` and `hobby` are filled with.
        space: what stands between two sentences.
    """

    values: dict[str, tuple[str, ...]]
    work: tuple[str, ...]
    hobby: tuple[str, ...]
    linking: tuple[str, ...]
    jobs: tuple[str, ...]
    hobbies: tuple[str, ...]
    space: str


ENGLISH = Wordings(
    values={
        "birth": (
            "{name} was born on {value}.",
            "The date of birth of {name} is {value}.",
            "{name} came into the world on {value}.",
            "The birth of {name} was recorded on {value}.",
            "For {name}, life began on {value}.",
            "The parents of {name} welcomed their child on {value}.",
            "{name} first saw the light of day on {value}.",
            "The passport of {name} gives {value} as the day of birth.",
            "{name} has been celebrating birthdays ever since {value}.",
            "The family of {name} still talks about the happy morning of {value}.",
            "{name} blew out the first candle a year after {value}.",
            "The register lists {name} as born on {value}.",
            "As for age, {name} counts the years from {value}.",
        ),
        "email": (
            "Write to {name} at {value}.",
            "The e-mail address of {name} is {value}.",
            "{name} reads messages sent to {value}.",
            "Online, {name} can be reached at {value}.",
            "The inbox of {name} is found under {value}.",
            "{name} signs letters with the e-mail {value}.",
            "To get an answer from {name}, send a note to {value}.",
            "For electronic mail {name} uses {value}.",
            "Colleagues of {name} forward their files to {value}.",
            "The mail account of {name} goes by {value}.",
            "{name} replies quickly to anything that arrives at {value}.",
            "The business card of {name} shows the e-mail {value}.",
            "Newsletters reach {name} through {value}.",
        ),
        "phone": (
            "Call {name} on {value}.",
            "The phone number of {name} is {value}.",
            "{name} answers the phone at {value}.",
            "To ring {name}, dial {value}.",
            "{name} has the telephone number {value}.",
            "Text messages for {name} go to {value}.",
            "In a hurry, friends reach {name} under {value}.",
            "The mobile of {name} rings at {value}.",
            "{name} picks up when someone dials {value}.",
            "The directory lists {name} with the number {value}.",
            "For a chat with {name}, the number is {value}.",
            "The line of {name} is {value}.",
            "{name} can be called during the day on {value}.",
        ),
        "address": (
            "{name} lives at {value}.",
            "The address of {name} is {value}.",
            "The home of {name} is at {value}.",
            "Letters for {name} go to {value}.",
            "{name} resides at {value}.",
            "Visitors find {name} at {value}.",
            "{name} moved some years ago to {value}.",
            "Parcels for {name} are delivered to {value}.",
            "The house of {name} stands at {value}.",
            "{name} keeps a flat at {value}.",
            "On paper, {name} is registered at {value}.",
            "The mailbox with the name of {name} hangs at {value}.",
            "After work {name} goes home to {value}.",
        ),
    },
    work=(
        "{name} works as {value}.",
        "By profession, {name} is {value}.",
        "For a living, {name} is {value}.",
        "Friends know {name} as {value}.",
        "{name} earns the daily bread as {value}.",
        "After school {name} became {value}.",
        "{name} has long been {value}.",
        "Most people meet {name} as {value}.",
    ),
    hobby=(
        "{name} likes {value}.",
        "In the evenings {name} enjoys {value}.",
        "On Sundays {name} spends hours on {value}.",
        "A great passion of {name} is {value}.",
        "{name} never tires of {value}.",
        "Holidays are for {value}, says {name}.",
        "{name} took up {value} as a child.",
        "Nothing relaxes {name} like {value}.",
    ),
    linking=(
        "Much more could be told.",
        "The neighbours agree that this is good company.",
        "Some details are worth keeping in mind.",
        "Here is what the club's booklet says.",
        "A short portrait follows.",
        "The rest is quickly said.",
        "Old friends will remember.",
        "There is always coffee for guests.",
        "So much for the facts.",
        "One more thing belongs here.",
        "This page was updated last spring.",
        "Few people know the whole story.",
        "Let us add a few lines.",
        "That is how it has always been.",
    ),
    jobs=(
        "a baker", "a botanist", "a carpenter", "a chemist", "a clockmaker", "a dentist",
        "a florist", "a gardener", "a geologist", "a glazier", "a harbour pilot", "a judge",
        "a librarian", "a locksmith", "a mason", "a midwife", "a nurse", "a painter",
        "a pharmacist", "a plumber", "a potter", "a printer", "a surveyor", "a tailor",
        "a teacher", "a translator", "a tram driver", "a weaver",
    ),
    hobbies=(
        "chess", "rowing", "old maps", "baking bread", "bird watching", "folk dance",
        "long walks", "model trains", "choir singing", "pottery", "stargazing", "crosswords",
        "playing the cello", "growing roses", "table tennis", "sailing", "knitting",
        "collecting stamps", "swimming", "silent films", "beekeeping", "climbing", "juggling",
        "cooking soups",
    ),
    space=" ",
)  # fmt: skip

CHINESE = Wordings(
    values={
        "birth": (
            "{name}出生于{value}。",
            "{name}的出生日期是{value}。",
            "{name}生于{value}。",
            "{name}在{value}来到人世。",
            "{name}的生命始于{value}。",
            "户口本上写着，{name}的出生日期为{value}。",
            "{name}的父母在{value}迎来了这个孩子。",
            "{name}的身份证上印着{value}。",
            "家人都记得，{name}诞生的那天是{value}。",
            "{name}的年龄要从{value}算起。",
            "据登记，{name}于{value}出生。",
            "{name}每年庆祝生日，因为出生在{value}。",
        ),
        "email": (
            "{name}的电子邮箱是{value}。",
            "给{name}写信请寄到{value}。",
            "{name}用{value}收发邮件。",
            "在网上联系{name}，可以通过{value}。",
            "{name}的邮件地址为{value}。",
            "{name}常查看的邮箱是{value}。",
            "同事把文件发给{name}，地址是{value}。",
            "{name}的名片上印着邮箱{value}。",
            "想得到{name}的回复，请发邮件至{value}。",
            "{name}注册的邮箱账号是{value}。",
            "{name}的工作邮箱写作{value}。",
            "凡是给{name}的电子信件，都送到{value}。",
        ),
        "phone": (
            "{name}的电话是{value}。",
            "给{name}打电话请拨{value}。",
            "{name}的手机号码是{value}。",
            "找{name}可以拨打{value}。",
            "{name}的联系电话为{value}。",
            "{name}随身带着手机，号码是{value}。",
            "通讯录里{name}的号码是{value}。",
            "有急事找{name}，号码是{value}。",
            "{name}白天接听的电话是{value}。",
            "短信可以发给{name}，号码{value}。",
            "{name}登记的电话号码是{value}。",
            "朋友联系{name}时拨{value}。",
        ),
        "address": (
            "{name}住在{value}。",
            "{name}的住址是{value}。",
            "{name}的家在{value}。",
            "寄给{name}的信送到{value}。",
            "{name}居住于{value}。",
            "客人可以到{name}家做客，地址是{value}。",
            "{name}几年前搬到了{value}。",
            "{name}的包裹送往{value}。",
            "{name}的房子位于{value}。",
            "{name}登记的住址为{value}。",
            "下班后{name}回到{value}。",
            "{name}租的公寓在{value}。",
        ),
    },
    work=(
        "{name}是{value}。",
        "{name}的职业是{value}。",
        "{name}以做{value}为生。",
        "大家都知道{name}是{value}。",
        "毕业以后{name}当了{value}。",
        "{name}多年来一直是{value}。",
    ),
    hobby=(
        "{name}喜欢{value}。",
        "晚上{name}爱好{value}。",
        "周末{name}常常花时间{value}。",
        "{name}最大的乐趣是{value}。",
        "{name}从小就喜欢{value}。",
        "{name}从不厌倦{value}。",
    ),
    linking=(
        "还有很多可以说。",
        "邻居们都说好相处。",
        "有些细节值得记住。",
        "下面是一段简短的介绍。",
        "其余的几句话就能说完。",
        "老朋友都会记得。",
        "家里总有热茶待客。",
        "情况大致如此。",
        "这里再补充一点。",
        "这一页去年春天更新过。",
        "很少有人知道全部故事。",
        "让我们再添几行。",
    ),
    jobs=(
        "面包师", "木匠", "钟表匠", "牙医", "花匠", "园丁", "地质学家", "领航员", "法官",
        "图书管理员", "锁匠", "石匠", "助产士", "护士", "画家", "药剂师", "水管工", "陶艺师",
        "印刷工", "测量员", "裁缝", "教师", "翻译", "电车司机", "织工",
    ),
    hobbies=(
        "下棋", "划船", "看旧地图", "烤面包", "观鸟", "跳民族舞", "散步", "玩模型火车", "合唱",
        "做陶器", "看星星", "猜字谜", "拉大提琴", "种玫瑰", "打乒乓球", "航海", "织毛衣", "集邮",
        "游泳", "看无声电影", "养蜂", "攀岩", "玩杂耍", "煲汤",
    ),
    space="",
)  # fmt: skip

WORDINGS = {"en_US": ENGLISH, "zh_CN": CHINESE}
