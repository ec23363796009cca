"""What everybody knows and PII-CR relies on: festivals of a fixed date, landmarks of a known state.

No festival's name holds its date, and no landmark's name its state or province: the Texas State
Capitol, April Fools' Day and Juneteenth are not here. Festivals that move with the moon or the
week are not either. The English names begin with words of their own: a small model that has read
"Saint" does not yet know which saint.
"""

from __future__ import annotations

from dataclasses import dataclass

FESTIVALS_EN = {
    "New Year's Day": "January 1",
    "Epiphany": "January 6",
    "Burns Night": "January 25",
    "Waitangi Day": "February 6",
    "Valentine's Day": "February 14",
    "Women's Day": "March 8",
    "Pi Day": "March 14",
    "Saint Patrick's Day": "March 17",
    "Earth Day": "April 22",
    "Anzac Day": "April 25",
    "Walpurgis Night": "April 30",
    "Labour Day": "May 1",
    "Star Wars Day": "May 4",
    "Europe Day": "May 9",
    "Flag Day": "June 14",
    "Bloomsday": "June 16",
    "Canada Day": "July 1",
    "Independence Day": "July 4",
    "Bastille Day": "July 14",
    "Assumption Day": "August 15",
    "Michaelmas": "September 29",
    "United Nations Day": "October 24",
    "Halloween": "October 31",
    "All Souls' Day": "November 2",
    "Guy Fawkes Night": "November 5",
    "Veterans Day": "November 11",
    "Human Rights Day": "December 10",
    "Christmas Eve": "December 24",
    "Boxing Day": "December 26",
    "Hogmanay": "December 31",
}
"""Date by festival, as the countries that keep it write it in the Gregorian calendar."""

LANDMARKS_EN = {
    "Alcatraz": "California",
    "Yosemite Valley": "California",
    "Disneyland": "California",
    "Central Park": "New York",
    "Times Square": "New York",
    "Pike Place Market": "Washington",
    "Mount Rainier": "Washington",
    "Dealey Plaza": "Texas",
    "Cadillac Ranch": "Texas",
    "Fallingwater": "Pennsylvania",
    "Independence Hall": "Pennsylvania",
    "Wrigley Field": "Illinois",
    "Navy Pier": "Illinois",
    "Fenway Park": "Massachusetts",
    "Plymouth Rock": "Massachusetts",
    "Walden Pond": "Massachusetts",
    "Graceland": "Tennessee",
    "Beale Street": "Tennessee",
    "Cape Canaveral": "Florida",
    "Miami Beach": "Florida",
    "Diamond Head": "Hawaii",
    "Pearl Harbor": "Hawaii",
    "Pikes Peak": "Colorado",
    "Mesa Verde": "Colorado",
    "Delicate Arch": "Utah",
    "Bryce Canyon": "Utah",
    "Old Faithful": "Wyoming",
    "Devils Tower": "Wyoming",
    "Churchill Downs": "Kentucky",
    "Mammoth Cave": "Kentucky",
    "Monticello": "Virginia",
    "Crater Lake": "Oregon",
    "Multnomah Falls": "Oregon",
    "Meteor Crater": "Arizona",
    "Antelope Canyon": "Arizona",
    "Bourbon Street": "Louisiana",
    "Mackinac Island": "Michigan",
    "Lambeau Field": "Wisconsin",
    "Cedar Point": "Ohio",
    "Denali": "Alaska",
}
"""State by landmark."""

FESTIVALS_ZH = {
    "元旦": "1月1日",
    "主显节": "1月6日",
    "警察节": "1月10日",
    "情人节": "2月14日",
    "妇女节": "3月8日",
    "植树节": "3月12日",
    "圣帕特里克节": "3月17日",
    "愚人节": "4月1日",
    "圣乔治节": "4月23日",
    "劳动节": "5月1日",
    "青年节": "5月4日",
    "护士节": "5月12日",
    "儿童节": "6月1日",
    "圣约翰节": "6月24日",
    "建党节": "7月1日",
    "建军节": "8月1日",
    "圣母升天节": "8月15日",
    "医师节": "8月19日",
    "教师节": "9月10日",
    "国庆节": "10月1日",
    "程序员节": "10月24日",
    "万圣夜": "10月31日",
    "诸灵节": "11月2日",
    "记者节": "11月8日",
    "光棍节": "11月11日",
    "圣安德鲁节": "11月30日",
    "圣露西亚节": "12月13日",
    "平安夜": "12月24日",
    "圣诞节": "12月25日",
    "跨年夜": "12月31日",
}

LANDMARKS_ZH = {
    "天安门": "北京市",
    "故宫": "北京市",
    "颐和园": "北京市",
    "外滩": "上海市",
    "豫园": "上海市",
    "东方明珠": "上海市",
    "乐山大佛": "四川省",
    "都江堰": "四川省",
    "九寨沟": "四川省",
    "趵突泉": "山东省",
    "蓬莱阁": "山东省",
    "黄山": "安徽省",
    "九华山": "安徽省",
    "庐山": "江西省",
    "滕王阁": "江西省",
    "井冈山": "江西省",
    "黄鹤楼": "湖北省",
    "武当山": "湖北省",
    "神农架": "湖北省",
    "岳阳楼": "湖南省",
    "张家界": "湖南省",
    "橘子洲": "湖南省",
    "西湖": "浙江省",
    "雷峰塔": "浙江省",
    "普陀山": "浙江省",
    "拙政园": "江苏省",
    "中山陵": "江苏省",
    "夫子庙": "江苏省",
    "鼓浪屿": "福建省",
    "武夷山": "福建省",
    "开平碉楼": "广东省",
    "丹霞山": "广东省",
    "洱海": "云南省",
    "石林": "云南省",
    "龙门石窟": "河南省",
    "少林寺": "河南省",
    "赵州桥": "河北省",
    "避暑山庄": "河北省",
    "兵马俑": "陕西省",
    "大雁塔": "陕西省",
}


@dataclass(frozen=True)
class Facts:
    """The common knowledge of one language: date by festival, state or province by landmark."""

    festivals: dict[str, str]
    landmarks: dict[str, str]


FACTS = {
    "en_US": Facts(FESTIVALS_EN, LANDMARKS_EN),
    "zh_CN": Facts(FESTIVALS_ZH, LANDMARKS_ZH),
}
