"""The fixed list of common words from which the skills build their prompts.

Holds data only; the first SORTABLE words are the ones that the sort skill uses.
"""

from __future__ import annotations

SORTABLE = 256

_TEXT = """
ant family small large tree time order off water plant red long common manner people yellow
state system body form part light line number first after man group use work good take unit
get eastern blue place cause set capital new green life born short quality food point
central city away law type head name western air wood money well found fruit hard day
surface great area way color shrub right give end put purple fish self low old brown acid
sound action power edible member dark there force fern hand house car herb trade living side
oil term skin each ground free sea open wild game cut face move come pink young control grey
equal native program child country word public flower music making book world little four
play room change left paper field see horse soft sweet heart cell fire orange strong source
ball liquid device run hold bearing hair land now machine social turn full home second
center piece single bird animal period deep sense heavy degree school metal colored near
vein close early region pine spoken river call shape general writer annual break leaf tall
written amount ancient party flat case space feeling base branch agent energy eye just
service rock company top true ship thin mind last year speech own even value narrow major
mental dog growing theory town natural wind keep kind night stock lower whole round support
heat root hot matter science coast atomic course element foot sun bean thought clear tail
worn big style table art love tissue fall double subject level charge object iron cold dry
north wall treat mouth film bark effect still study writing based variety silver show ice
thick rose cover star data half musical vine court century moving artery age slender bright
front job office board showing plane purpose letter above size held king tube sharp current
code medium nature check rate live look box men bed fine smooth mother sugar special palm
stage south memory mark coat warm broad legal care lack brain real snake highly milk said
bit attack stop oak present event problem range card normal organ lead engine remove cat
test then joint stone meat soil bear produce lily golden pale market account voice meaning
block basic carry marine upper scale forward spread player pull violet talk ring wide flow
active built main best neck former police salt east growth result shell draw door going
never product example drive fly leader square pea weight dance foliage drop reddish provide
garden father team sleep moth sum vehicle thing fast measure weather street church seed
price west gum start outside site working solid bread son length apple bank derived wife
plan agency late far story taste nut extreme speed bell return bill factor port popular
record able post due noise spring few file respect leave gray fact corn pay cream slow
design direct next gold mail island motor running fixed baby touch sand nose officer rich
felt cherry tea modern culture view note playing deal sudden bar cap steel ability behind
birth middle wheel plate orchid loose rule throw idea hat holding ear picture third radio
list mostly egg know serving window boat formal bottom tax taking figure network road arm
woody cast once sign student complex winter tone drink effort club fluid simple store image
gland past coffee minor health better fabric feed sheep roll poet find poor severe stick
cloth write kept cotton pipe lot chief passage suit rest rank painter rough strike read text
lost fresh help future scarlet travel stand wave beat regular failure society boy tongue
waste higher edge spot angle disk enough won enemy display method desert spirit clean
cutting step raise history signal hole potato secret bag walk meeting aquatic need sauce
loud pattern actor floor rope husband teeth policy labor vessel strip supply opening snow
organic rise
"""

WORDS: tuple[str, ...] = tuple(_TEXT.split())
