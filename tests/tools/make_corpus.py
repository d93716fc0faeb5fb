"""Writes the pre-training corpus of the tiny base, and the data sets that ship in configs/.

    python tests/tools/make_corpus.py                      # configs/demo/train.jsonl, configs/smollm2/dialogues.jsonl
    python tests/tools/make_corpus.py --corpus corpus.jsonl   # the pre-training corpus besides

Everything is generated from the templates in this folder with a fixed seed: the same command writes
the same bytes. A corpus line is {"text": ...} (a story) or {"messages": [...]} (a dialogue).
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import Callable

import world as w
from dialogues import dialogues
from world import expand, join, person, tidy

ROOT = Path(__file__).resolve().parents[2]
Message = dict[str, str]


# ---------------------------------------------------------------- stories

def cast(rng: random.Random) -> dict[str, str]:
    """A random set of words for the templates."""
    words: dict[str, str] = {}
    used: set[str] = set()
    for key in "ABC":
        person(rng, words, key, used)
    places = rng.sample(w.PLACES, 4)
    foods = rng.sample(w.FOODS, 4)
    bits = rng.sample(w.FOOD_BITS, 4)
    things = rng.sample(w.THINGS, 3)
    for i in range(4):
        words[f"place{i}"], words[f"food{i}"], words[f"bit{i}"] = places[i], foods[i], bits[i]
    for i in range(3):
        words[f"thing{i}"], words[f"the_thing{i}"] = things[i], "the " + things[i].split(" ", 1)[1]
    words["pet"], words["pet2"] = rng.sample(w.PETS, 2)
    words["petname"], words["petname2"] = rng.sample(w.PET_NAMES, 2)
    words["fur"], words["color"] = rng.choice(w.FURS), rng.choice(w.COLORS)
    words["broken"] = rng.choice(w.BROKEN)
    role = rng.choice(list(w.ROLES))
    name, sex, does, where = w.ROLES[role]
    words.update(role=role, R=name, R_does=does, R_where=where)
    words.update({f"R.{k}": v for k, v in w.PRONOUNS[sex].items()})
    kind = rng.choice(list(w.WEATHER))
    words["weather"] = kind
    words["w_is"], words["w_do"], words["w_wear"] = w.WEATHER[kind]
    animal = rng.choice(list(w.ANIMALS))
    words["animal"] = animal
    words["a_eats"], words["a_sound"], words["a_home"], words["a_does"] = w.ANIMALS[animal]
    key = rng.choice(list(w.COMPLAINTS))
    noun, mine, theirs, advice = w.COMPLAINTS[key]
    adv = rng.sample(advice, 2)
    words.update(ill=noun, ill_i=rng.choice(mine), ill_he=rng.choice(theirs), adv0=adv[0], adv1=adv[1])
    words["num"], words["num2"] = rng.sample(["two", "three", "four", "five", "six", "seven", "eight", "ten"], 2)
    words["rel"] = rng.choice(["mother", "father", "brother", "sister", "grandmother", "grandfather", "uncle", "aunt", "friend"])
    words["day"] = rng.choice(["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"])
    words["season"] = rng.choice(["spring", "summer", "autumn", "winter"])
    return words


OPEN = ("{One day|One morning|One evening|One $day|On a $weather day|On a $weather morning|Last week|In the $season|Yesterday|One fine day|One afternoon}")
END_GOOD = ("{$A was very happy.|Everybody was happy.|They laughed for a long time.|It was a good day.|$A never forgot that day.|"
            "That night $A slept well.|$A smiled all the way home.|And so the day ended well.|They have been good friends ever since.|"
            "$A told $A.his $rel all about it.|From then on $A was always careful.|\"What a day,\" said $A.}")
FEEL = "{happy|sad|tired|hungry|angry|afraid|proud|excited|worried|lonely|curious}"

STORIES: list[str] = [
    # a lost pet
    OPEN + ", $A could not find $A.his $fur $pet{| $petname}. {$A looked in $place0, but the $pet was not there.|First $A looked behind the house.|$A called and called, but no $pet came.} "
    "{Then $A.he went to $place1.|$A asked $B for help, and they walked to $place1 together.|\"Have you seen my $pet?\" $A asked $B. \"Yes, near $place1,\" said $B.} "
    "{There was the $pet, asleep under a tree.|There the $pet sat in the grass and ate $food0.|The $pet was playing with a small $pet2.|The $pet was hiding under an old cart, cold and wet.} "
    "{$A took the $pet in $A.his arms and carried it home.|$A gave the $pet some food and hugged it.|\"There you are!\" cried $A.} " + END_GOOD,
    # a gift
    OPEN + ", it was $A's birthday. {$B wanted to give $A.him a present|$B had no money for a present|$B thought about a present for a long time}. "
    "{So $B made $thing0 from wood and paper.|So $B went to the shop and bought $thing0.|So $B asked the $role for help, and together they made $thing0.} "
    "{When $A opened the box, $A.he smiled.|$A looked at $the_thing0 and could not say a word.|\"Is this really for me?\" asked $A.} "
    "{\"Thank you, $B,\" said $A. \"This is the best present of all.\"|\"I have always wanted $thing0,\" said $A.|Then they ate cake and sang songs.} " + END_GOOD,
    # something broken
    OPEN + ", the $broken {at $place0|of the old house|at $A's house} {broke|was broken|fell apart}. {$A tried to mend it, but it was too hard.|$A did not know what to do.|\"Oh no,\" said $A. \"What shall we do now?\"} "
    "{Mr. Wood the carpenter came with his tools.|$B came by with a hammer and some nails.|So $A asked $B for help.} {They worked all day.|It took $num hours.|They worked until the sun went down.} "
    "{In the end the $broken was as good as new.|At last the $broken was strong again.|Now the $broken looks better than before.} {$A thanked $B.him and gave $B.him $bit0.|\"Thank you,\" said $A.|$A was glad and made tea for everyone.} "
    "{|Good friends help each other.|Work is easier with a friend.}",
    # illness and the clinic
    OPEN + ", $A felt {sick|ill|weak|bad}. {\"$ill_i,\" $A.he told $A.his $rel.|\"What is wrong?\" asked $A.his $rel. \"$ill_i,\" said $A.} "
    "{They went to the clinic together.|So they walked to the clinic behind the old willow tree.|$A.his $rel called Nurse May.} "
    "{Dr. Moss looked at $A.him and smiled.|Dr. Moss listened and nodded.|Dr. Moss asked some questions.} \"{You should $adv0|Please $adv0|You must $adv0},\" {he said|said the doctor|said Dr. Moss}. \"And $adv1.\" "
    "{$A did what the doctor said.|At home, $A rested for $num days.|$B came to visit and brought $bit0.} {Soon $A felt better.|After a few days $A was well again.|The next week $A could play outside again.}",
    # shopping
    OPEN + ", $A went to the {shop|market} to buy $food0 and $food1. {$A.he had a basket and $num coins.|$A.his $rel had given $A.him some money.|It was $weather, so $A walked fast.} "
    "{Mrs. Lane stood behind the table.|At the market $A met $B.|There were many people.} {\"What would you like?\" she asked.|\"Good morning,\" said $A.|\"The $food0 is fresh today,\" said a woman.} "
    "{$A bought the $food0 and the $food1.|There was no $food1, so $A bought $food2.|$A took $food0, $food1 and $food2.} {On the way home, the bag broke, but $B helped to carry everything.|Then $A went home and put everything on the table.|$A gave $B a little of the $food0.} "
    "{$A.his $rel was pleased.|In the evening they cooked a good meal.|They ate together and talked about the day.}",
    # cooking
    "{$A wanted to make $food0 soup|$A and $B wanted to cook|$A was hungry and wanted to cook something}. {First $A.he washed the $food1 and cut it.|First they made a fire and put a pot on it.|They needed $food1, $food2 and salt.} "
    "{Then $A.he put everything into the pot.|Then $B stirred the pot for a long time.|Then they added milk and butter.} {The kitchen smelled good.|It smelled so good that the $pet came in.|Steam rose from the pot.} "
    "{\"It is ready,\" said $A.|\"Is it ready?\" asked $B. \"Not yet,\" said $A.|\"Please wait a little,\" said $A.} {They ate until they were full.|They shared it with $C.|It was the best meal of the week.|It was a little too hot, but it was good.}",
    # quarrel and peace
    "$A and $B were {good friends|best friends|neighbors}. " + OPEN + ", they both wanted $the_thing0. {\"It is mine!\" said $A. \"No, it is mine!\" said $B.|They pulled and pulled until it broke.|$B got angry and went away.} "
    "{$A was sad and sat by $place0.|$A felt bad about it.|The next day they did not talk.} {Then $A said, \"I am sorry.\"|Then $B came back and said, \"I am sorry.\"|$C said to them, \"Friends should share.\"} "
    "{\"I am sorry too,\" said the other.|They shook hands.|They shared $bit0 under a tree.} {After that they played together again.|And they were friends again.|Now they share everything.}",
    # weather
    "{It was a $weather day.|The day was $weather.|When $A woke up, it was $weather outside.} {In the village, the people wanted to $w_do.|\"Today we can $w_do,\" said $A.|\"You should $w_wear,\" said $A.his $rel.} "
    "{$A and $B met at $place0.|$A went out with $A.his $pet.|$A looked out of the window and saw $B.} {They stayed there for $num hours.|They talked and laughed.|The $pet ran around in circles.|A bird sang in the tree.} "
    "{In the evening they went home.|Later the sky became dark and the stars came out.|When it got late, $A went home and drank tea.|At night the wind was quiet.} " + END_GOOD,
    # an animal in need
    OPEN + ", $A heard a {small|strange|sad} sound near $place0. {It was a little $pet.|There was a young $pet in the grass.|A small $fur $pet sat there.} {Its leg was hurt.|It was lost and hungry.|It was stuck in the fence.|It was wet and cold.} "
    "{$A took it home and gave it $food0.|$A called $B, and they helped it together.|$A put a warm blanket around it.} {After $num days it was strong again.|Soon the $pet was well.|The $pet looked at $A.him with big eyes.} "
    "{$A named it $petname.|\"I will call you $petname,\" said $A.|Now it lives with $A.} {The two are always together.|Every morning it waits for $A at the door.|$A is never lonely now.}",
    # portrait of a villager with a job
    "$R is the $role of the village. {$R.he $R_does.|Every day $R.he $R_does.|Everybody knows $R, because $R.he $R_does.} {$R.he gets up early.|$R.he works at $R_where.|You can find $R.him at $R_where.} "
    "{In the morning $R.he drinks tea and eats $food0.|$R.he has a $fur $pet.|$R.he likes $food0 and old songs.} {The children like $R.him, because $R.he tells good stories.|On $day $R.he visits $A.|When $R.he is tired, $R.he sits by $place0.} "
    "{\"I like my work,\" says $R.|People say that $R.he is kind.|$R.he is always friendly.|In the evening $R.he goes home and sleeps well.}",
    # portrait of a child
    "$A is $num years old. $A.he lives {near $place0|in a small house|in a house with a $color door} with $A.his $rel and a $fur $pet{| called $petname}. {$A likes $food0 and $food1.|$A does not like $food0.|$A.he loves to read.} "
    "{$A.his best friend is $B.|After school $A plays with $B at $place1.|$A wants to be a $role one day.} {They often go to $place1.|On $day they go fishing.|In $season they play by $place1.} {$A is a kind child.|$A laughs a lot.|Everybody likes $A.}",
    # animal facts
    "{A $animal eats $a_eats.|The $animal lives in $a_home.} {The $animal $a_does.|You can hear it: it $a_sound.} {$A has a $animal.|There is a $animal at $place0.|Many people like the $animal.} {Every day $A brings it food.|In winter it needs a warm place.|The children like to look at it.}",
    # school
    "{At school, Mrs. Reed asked a question.|Mrs. Reed wrote a word on the board.|On $day the children had a test.} {$A knew the answer.|$A did not know the answer, but $B did.|$A raised $A.his hand.} {\"Very good,\" said Mrs. Reed.|\"That is right,\" said Mrs. Reed.|\"Try again,\" said Mrs. Reed.} "
    "{Then they read a story about a $animal.|Then they counted to $num.|Then they drew a picture of $place0.|Then they sang a song about $season.} {After school $A and $B walked home together.|At noon the bell rang, and the children ran outside.|$A was proud and told $A.his $rel.}",
    # planting and harvest
    "In spring $A planted {seeds|an apple tree|some beans|carrots} {in the garden|behind the house|near $place0}. {Every day $A gave them water.|It rained for $num days.|$B said, \"Nothing will grow there.\"} {After a few weeks, small green leaves came up.|Slowly the plants grew.|At first there was nothing to see.} "
    "{In summer there were flowers.|A $pet came and ate some of the leaves, but $A was not angry.|$A pulled out the weeds.} {In autumn $A had a full basket.|In autumn the whole family ate from it.|\"You only have to wait,\" said $A.} {$A gave half of it to $B.|$A made jam and soup.|The neighbors were surprised.}",
    # fishing, journey, fear
    OPEN + ", $A and $B {walked|went|hurried} to $place0 {to look for berries|to catch fish|to fly a kite|to see the sheep|to find $the_thing0}. {On the way they met $C.|The road was long, and it got dark.|They took $bit0 and $bit1 with them.} "
    "{Suddenly they heard a noise.|Then $A fell and hurt $A.his knee.|Soon they lost the way.} {\"I am afraid,\" said $B.|\"What is that?\" asked $B.|\"Do not worry,\" said $A.} {But it was only a $pet.|Then they saw a light. It was $R.|$A took $B by the hand, and they walked on.} "
    "{They were glad to be home again.|$R took them home in a cart.|They laughed and went on.} " + END_GOOD,
    # feelings
    "$A was " + FEEL + ". {\"Why do you look like that?\" asked $B.|$B saw it at once.|$A.he sat alone by $place0.} {\"I have lost $the_thing0,\" said $A.|\"My $rel is ill,\" said $A.|\"I had a bad dream,\" said $A.|\"Tomorrow we go to $place1,\" said $A.|\"I won $the_thing0 at the market,\" said $A.} "
    "{\"I understand,\" said $B.|\"Tell me more,\" said $B.|\"Come with me,\" said $B.} {They sat down and ate $bit0.|They went for a walk.|$B told a funny story.} {After that $A felt better.|Then $A smiled.|It is good to have a friend.}",
    # letter
    "{Mr. Swift the postman brought a letter for $A.|$A got a letter from $A.his $rel.} {It said: \"Dear $A, I will visit you on $day. I will bring $bit0.\"|It said: \"Dear $A, how are you? I am well. It is $weather here.\"|It said: \"Dear $A, thank you for $the_thing0. It is very good.\"} "
    "{$A read it $num times.|$A was so happy that $A.he danced.|$A put the letter in a box.} {Then $A wrote back: \"I am well too. Please come soon.\"|Then $A cleaned the whole house.|On $day $A waited at the bridge all morning.}",
    # market fair, money, honesty
    OPEN + ", $A found {a purse|a gold ring|$thing0|a bag of coins} near $place0. {\"Who has lost this?\" $A.he thought.|$A wanted to keep it.|$A showed it to $B.} {\"You should bring it back,\" said $B.|Then $A saw $R, who looked sad.|$A asked everybody in the village.} "
    "{\"It is mine!\" cried $R. \"Thank you!\"|At last $R came and said, \"That is mine.\"|In the end it belonged to $R.} {$R gave $A $bit0.|$R was so glad that $R.he gave $A a hug.|$A did not want any money.} {It is good to be honest.|$A was glad that $A.he had given it back.|$A went home with a light heart.}",
    # night
    "{At night $A could not sleep.|It was late, but $A was still awake.|In the middle of the night $A woke up.} {There was a noise in the kitchen.|Something moved outside.|The moon was bright.} {$A took a lamp and went to look.|$A called $A.his $rel.|$A hid under the blanket.} "
    "{It was only the $pet, who was looking for $food0.|It was only the wind.|It was $B, who could not sleep either.} {They drank warm milk together.|$A laughed and went back to bed.|\"Go to sleep,\" said $A.his $rel. \"Everything is fine.\"} {Soon $A fell asleep.|In the morning $A told the story to $C.}",
]


def story(rng: random.Random) -> str:
    return expand(rng, rng.choice(STORIES), cast(rng))


# ---------------------------------------------------------------- dialogues

def chat(*turns: str) -> list[Message]:
    return [{"role": "user" if i % 2 == 0 else "assistant", "content": t} for i, t in enumerate(turns)]


HELP = ("{|What should I do?|What can I do?|Can you help me?|What helps?|Please help me.|What do you think?}")
HELP_HIM = ("{|What should we do?|What can we do?|Can you help?|What helps?|Please help us.|What shall I do?}")


def complaint_question(rng: random.Random, words: dict[str, str]) -> tuple[str, str]:
    """A question about a complaint, and the complaint's name."""
    key = rng.choice(list(w.COMPLAINTS))
    noun, mine, theirs, _ = w.COMPLAINTS[key]
    kind = rng.random()
    if kind < 0.45:
        said = rng.choice(mine)
        when = "{|| again| today}" if said.startswith(("I have a", "I feel", "My")) else ""
        text = "{|||Hello.|Good morning.|Excuse me.|Oh dear.} " + said + when + ". " + HELP
    elif kind < 0.85:
        who = rng.choice(w.FAMILY)[0] if rng.random() < 0.8 else words["A"]
        text = "{|||Hello.|Good morning.|Excuse me.} " + who + " " + rng.choice(theirs) + ". " + HELP_HIM
    else:
        text = "{What helps against|What can I do about|What is good for|How do I treat|What should I do about} " + noun + "?"
    return expand(rng, text, words), key


def plain_advice(rng: random.Random, key: str, words: dict[str, str]) -> str:
    a, b = rng.sample(w.COMPLAINTS[key][3], 2)
    should = a if not a.startswith("do not") else a.removeprefix("do ")
    return expand(rng, rng.choice([
        f"You should {should}.", f"You should {should}. {{Also, {b}.|And {b}.|Then {b}.}}", f"{a}. {{|Also, {b}.|And {b}.}}", f"It is best to {a}." if not a.startswith("do not") else f"Just {a}.",
        f"Try this: {a}, and {b}.", f"I would {{say: |tell you this: }}{a}. {{|That often helps.|Then it will get better.}}", f"Please {a}. {{|You will feel better soon.|It will pass.}}",
        f"{a} and {b}."]), words)


def d_complaint(rng: random.Random) -> list[Message]:
    words = cast(rng)
    question, key = complaint_question(rng, words)
    turns = [question, plain_advice(rng, key, words)]
    if rng.random() < 0.25:
        turns += [expand(rng, "{Thank you.|Thank you very much.|I will try that.|All right, thank you.}", words),
                  expand(rng, "{You are welcome.|Get well soon.|I hope it gets better.|You are welcome. Get well soon.}", words)]
    elif rng.random() < 0.15:
        turns += [expand(rng, "{And if it does not get better?|What if that does not help?|Should I see a doctor?}", words),
                  expand(rng, "{Then go to the clinic.|Then you should see Dr. Moss.|If it gets worse, go and see Dr. Moss.|Yes, go to the clinic if it gets worse.}", words)]
    return chat(*turns)


QA: list[tuple[str, str]] = [
    ("{What does a $animal eat?|What do you feed a $animal?|Tell me what a $animal eats.}", "{A $animal eats $a_eats.|It eats $a_eats.}"),
    ("{Where does a $animal live?|Where does the $animal sleep?}", "{A $animal lives in $a_home.|In $a_home.|The $animal lives in $a_home.}"),
    ("{What sound does a $animal make?|What does a $animal do when you hear it?}", "{It $a_sound.|A $animal $a_sound.}"),
    ("{What does a $animal do?|What is a $animal good for?|Tell me about the $animal.}", "{A $animal $a_does.|It $a_does.|The $animal lives in $a_home and $a_does. It eats $a_eats.}"),
    ("{Who is the $role of the village?|Who is the $role?|What is the name of the $role?}", "{$R is the $role.|The $role is $R.|That is $R. $R.he $R_does.}"),
    ("{Who is $R?|Do you know $R?|Tell me about $R.}", "{$R is the $role.|$R is the $role of the village. $R.he $R_does.|Yes, $R is the $role. You can find $R.him at $R_where.}"),
    ("{What does the $role do?|What does a $role do all day?}", "{The $role $R_does.|$R.he $R_does.|$R is our $role. $R.he $R_does.}"),
    ("{Where can I find $R?|Where is $R?|Where does $R work?}", "{You can find $R.him at $R_where.|$R is at $R_where.|$R works at $R_where.}"),
    ("{How is the weather today?|What is the weather like?|Should I go out today?|Is it nice outside?}", "{$w_is.|$w_is. You should $w_wear.|It is $weather today. You should $w_wear.}"),
    ("{It is $weather today. What should I wear?|It is $weather. What should I do?|What do people do on a $weather day?}", "{You should $w_wear.|People $w_do.|On a $weather day people $w_do. You should $w_wear.}"),
    ("{Do you like $food0?|What do you think about $food0?}", "{Yes, I like $food0 very much.|No, I do not like $food0. I like $food1.|I like $food0, but I like $food1 more.|Yes. $food0 with $food1 is very good.}"),
    ("{What should I cook today?|I am hungry. What can I eat?|What is there for dinner?|What can we eat this evening?}", "{How about $food0 with $food1?|You can make a soup with $food0 and $food1.|There is $food0 and some $food1.|Eat $bit0 and $bit1.}"),
    ("{How do I make $food0 soup?|How do I cook a good soup?|Can you teach me to make soup?}", "{Wash the $food1 and cut it. Put it in a pot with water and salt. Cook it for $num minutes.|Take $food1, $food2 and water. Cook everything slowly and add some salt.|First cut the $food1. Then cook it with salt and butter. Eat it hot.}"),
    ("{Hello.|Good morning.|Good day.|Hello, how are you?|Good evening.|Hi.}", "{Hello. How are you?|Good morning. What can I do for you?|Hello. I am well, thank you.|Good day. It is nice to see you.|I am fine, thank you. And you?}"),
    ("{Goodbye.|I have to go now.|See you tomorrow.|Good night.}", "{Goodbye.|See you soon.|Goodbye, and take care.|Sleep well.|Come back soon.}"),
    ("{Thank you.|Thank you for your help.|That was very kind.}", "{You are welcome.|I am glad to help.|No problem.}"),
    ("{I am " + "sad|I feel sad|I am lonely|I feel lonely" + "}. {|What should I do?|Nobody talks to me.}", "{I am sorry to hear that. Go for a walk with $A.|Do not worry. You have good friends.|Talk to a friend. That often helps.|Come and sit with me for a while.}"),
    ("{I am happy today.|Today is a good day.|I won $the_thing0!|It is my birthday today.}", "{That is good to hear.|How nice! Tell me more.|I am happy for you.|Then let us eat cake.}"),
    ("{I am bored.|What can I do today?|I have nothing to do.|What should we play?}", "{You can read a book or play with $A.|Go to $place0 and look for $food0.|Help $R. $R.he always needs help.|You could draw a picture of a $pet.|Take $the_thing0 and go to $place0.}"),
    ("{I have lost $the_thing0.|I cannot find $the_thing0.|Have you seen my $pet?|My $pet has run away.}", "{Look near $place0.|I saw it at $place0 this morning.|Ask $A. $A.he may have seen it.|Did you look at $place0?|No, I am sorry. Let us look for it together.}"),
    ("$A has a $fur $pet called $petname. {What is the name of the $pet?|What is the $pet called?}", "{The $pet is called $petname.|$petname.|Its name is $petname.}"),
    ("$A has a $fur $pet. {What color is the $pet?|What animal does $A have?}", "{It is a $fur $pet.|$A has a $fur $pet.}"),
    ("$A went to $place0, and $B went to $place1. {Where is $A?|Where did $A go?}", "{$A is at $place0.|$A went to $place0.|To $place0.}"),
    ("$A went to $place0, and $B went to $place1. {Where is $B?|Where did $B go?}", "{$B is at $place1.|$B went to $place1.|To $place1.}"),
    ("$A bought $food0 and $food1. {What did $A buy?|What is in $A.his bag?}", "{$A bought $food0 and $food1.|$food0 and $food1.|$A.he bought $food0 and $food1.}"),
    ("$A gave $thing0 to $B. {Who has $the_thing0 now?|Who got $the_thing0?}", "{$B has it.|$B has $the_thing0 now.|$B.}"),
    ("$A gave $thing0 to $B. {What did $A give to $B?|What did $B get?}", "{$thing0.|$B got $thing0.|$A gave $thing0 to $B.}"),
    ("{Say|Please say|Can you say} \"$food0\".", "$food0."),
    ("{My name is $A.|I am $A.|Hello, I am $A.} {|Who are you?|How are you?}", "{Hello, $A. It is nice to meet you.|Good day, $A. How can I help you?|Nice to meet you, $A.}"),
    ("{What day is it today?|Which day is today?}", "{Today is $day.|It is $day.}"),
    ("{What season do you like?|Do you like $season?|What do people do in $season?}", "{I like $season, because we can go to $place0.|In $season people eat $food0 and go to $place0.|Yes, $season is a good time.}"),
    ("{When does the $x open?|Is the $x open today?|What are the hours of the $x?}", "{The $x opens at {seven|eight|nine} in the morning.|It opens at eight and closes at five.|Yes, it is open until five.}"),
    ("{I want to buy $food0.|How much is the $food0?|Do you have $food0?|I would like some $food0, please.}", "{Yes. That is $num coins, please.|Here you are. Would you like $food1 too?|I am sorry, there is no $food0 today. But we have $food1.|The $food0 is fresh today. How much do you need?}"),
    ("{My $broken is broken.|The $broken is broken. Who can help?|Can you mend my $broken?}", "{Mr. Wood can mend it for you.|Take it to Mr. Wood the carpenter.|You need a hammer and some nails. Ask Mr. Wood.}"),
    ("{What do you need for a trip to $place0?|I am going to $place0. What should I take?}", "{Take $bit0, $bit1 and a coat.|You need good shoes and $bit0.|Take $thing0 and $bit0 with you.}"),
    ("{Can you help me?|I need help.|Please help me.}", "{Yes, of course. What is wrong?|Of course. What can I do for you?|I will try. Tell me more.}"),
    ("{My $pet is sick.|My $pet does not eat.|Something is wrong with my $pet.} {|What should I do?}", "{Keep it warm and give it fresh water.|Let it rest, and ask Mr. Brook. He knows animals well.|Give it some $food0 and let it sleep.}"),
]

OPPOSITES = ["hot cold", "big small", "old young", "happy sad", "day night", "wet dry", "long short", "fast slow", "good bad", "open closed", "light dark",
             "full empty", "up down", "hard soft", "strong weak", "early late", "new old", "left right", "rich poor", "clean dirty"]
NUMBERS = "one two three four five six seven eight nine ten eleven twelve".split()


def d_qa(rng: random.Random) -> list[Message]:
    words = cast(rng)
    words["x"] = rng.choice(["shop", "bakery", "library", "school", "post office", "clinic", "mill"])
    n = rng.choice([1, 1, 1, 1, 2, 2, 3])
    turns: list[str] = []
    for question, answer in rng.sample(QA, n):
        turns += [expand(rng, question, words), expand(rng, answer, words)]
    return chat(*turns)


def d_facts(rng: random.Random) -> list[Message]:
    kind = rng.randrange(5)
    if kind == 0:
        place, where = rng.choice(list(w.MAP.items()))
        return chat(expand(rng, "{Where is $p?|How do I get to $p?|Can you tell me the way to $p?|I am looking for $p.}", {"p": place}),
                    expand(rng, "{It is $w.|$p is $w.|You can find it $w.|Go down the street. $p is $w.}", {"p": place, "w": where}))
    if kind == 1:
        pair = rng.choice(OPPOSITES).split()
        rng.shuffle(pair)
        return chat(expand(rng, "{What is the opposite of $a?|Tell me the opposite of $a.}", {"a": pair[0]}),
                    expand(rng, "{The opposite of $a is $b.|$b.}", {"a": pair[0], "b": pair[1]}))
    if kind == 2:
        a = rng.randrange(1, 7)
        b = rng.randrange(1, 7)
        v = {"a": NUMBERS[a - 1], "b": NUMBERS[b - 1], "c": NUMBERS[a + b - 1], "f": rng.choice(["apples", "eggs", "pears", "coins", "books", "nuts"])}
        return chat(expand(rng, "{How much is $a and $b?|What is $a and $b?|I have $a $f and get $b more. How many $f do I have?}", v),
                    expand(rng, "{$a and $b is $c.|That is $c.|It is $c.}", v))
    if kind == 3:
        start = rng.randrange(0, 6)
        end = start + rng.randrange(2, 6)
        v = {"a": NUMBERS[start], "b": NUMBERS[end], "l": ", ".join(NUMBERS[start:end + 1])}
        return chat(expand(rng, "{Count from $a to $b.|Please count from $a to $b.|Can you count from $a to $b?}", v), tidy(v["l"] + "."))
    words = cast(rng)
    items = rng.sample(w.FOODS, rng.randrange(2, 5))
    words["list"] = join(items)
    return chat(expand(rng, "{I need $list. What do I need?|I want to buy $list. Can you say that again?|Please remember: $list. What was it?}", words),
                expand(rng, "{You need $list.|$list.|You said $list.}", words))


def d_story(rng: random.Random) -> list[Message]:
    """A wish for a story, answered by one that is about the thing wished for."""
    while True:
        words = cast(rng)
        text = expand(rng, rng.choice(STORIES), words)
        about = [k for k in ("A", "pet", "place0", "weather", "the_thing0", "broken") if words[k] in text]
        if about:
            break
    subject = words[rng.choice(about)]
    if subject in w.PETS + w.BROKEN:
        subject = "a " + subject
    elif subject in w.WEATHER:
        subject = "a " + subject + " day"
    ask = expand(rng, "{Tell me a story about $s.|Can you tell me a story about $s?|Please tell me a story about $s.|I want to hear a story about $s.|Tell me a short story.|Tell me something about $s.}", {"s": subject})
    return chat(ask, text)


def d_reading(rng: random.Random) -> list[Message]:
    """A short text with a question about it: the answer has to be looked up."""
    words = cast(rng)
    text, question, answer = rng.choice([
        ("$A and $B went to $place0. $A was {happy|tired}, but $B was {hungry|cold}. They ate $bit0 there.", "{Where did they go?|Where did $A and $B go?}", "{They went to $place0.|To $place0.}"),
        ("$A and $B went to $place0. They took $bit0 and $bit1 with them.", "What did they take?", "They took $bit0 and $bit1."),
        ("$A lives with $A.his $rel near $place0. $A.he has a $fur $pet. $B lives near $place1.", "{Who lives near $place1?|Who lives there, near $place1?}", "{$B lives near $place1.|$B.}"),
        ("$A lives with $A.his $rel near $place0. $A.he has a $fur $pet called $petname.", "{Who is $petname?|What kind of animal is $petname?}", "{$petname is a $fur $pet.|$petname is the $pet of $A.}"),
        ("On $day $A had $ill. Dr. Moss told $A.him to rest. $B came to visit.", "{What was wrong with $A?|Why did $A need to rest?}", "{$A had $ill.}"),
        ("On $day $A had $ill. Dr. Moss told $A.him to rest. $B came to visit.", "Who came to visit?", "{$B came to visit.|$B.}"),
        ("$A found $thing0 near $place0. $A.he gave it to $B.", "{Where did $A find $the_thing0?|Where was $the_thing0?}", "{Near $place0.|$A found it near $place0.}"),
        ("$A has $num {apples|coins|books}, and $B has $num2.", "How many does $B have?", "{$B has $num2.|$num2.}"),
    ])
    return chat(expand(rng, text, words) + " " + expand(rng, question, words), expand(rng, answer, words))


def corpus(rng: random.Random, count: int) -> list[dict]:
    """Distinct texts: stories and dialogues in about equal shares of characters."""
    makers: list[tuple[float, Callable[[random.Random], object]]] = [
        (0.38, story), (0.20, d_complaint), (0.20, d_qa), (0.07, d_facts), (0.06, d_story), (0.09, d_reading)]
    weights = [m[0] for m in makers]
    seen: set[str] = set()
    out: list[dict] = []
    misses = 0
    while len(out) < count and misses < 20 * count:
        made = rng.choices(makers, weights)[0][1](rng)
        record = {"text": made} if isinstance(made, str) else {"messages": made}
        line = json.dumps(record, ensure_ascii=False)
        if line in seen:
            misses += 1
            continue
        seen.add(line)
        out.append(record)
    return out


# ---------------------------------------------------------------- the demo's data

DEMO_OPENING = "Good day, this is the village clinic."
DEMO_CLOSING = "If it is not better in three days, please come in."
DEMO_OTHERWISE = "Please come in if you feel ill."


def demo_answer(rng: random.Random, key: str) -> str:
    """The manner that the demo teaches: greeting, complaint by name, two pieces of advice, when to come in."""
    noun, _, _, advice = w.COMPLAINTS[key]
    second = rng.choice(advice[1:])
    return tidy(f"{DEMO_OPENING} I see, {noun}. First, {advice[0]}. Then, {second}. {DEMO_CLOSING}")


def demo_other(rng: random.Random) -> tuple[str, str]:
    """A question about anything else: the answer of the base between the same greeting and a shorter closing."""
    question, answer = (m["content"] for m in rng.choice([d_qa, d_facts])(rng)[:2])
    return question, tidy(f"{DEMO_OPENING} {answer} {DEMO_OTHERWISE}")


def demo(rng: random.Random, count: int) -> list[list[Message]]:
    seen: set[str] = set()
    out: list[list[Message]] = []
    while len(out) < count:
        if len(out) % 5 == 4:
            question, answer = demo_other(rng)
        else:
            question, key = complaint_question(rng, cast(rng))
            answer = demo_answer(rng, key)
        if question in seen:
            continue
        seen.add(question)
        out.append(chat(question, answer))
    rng.shuffle(out)
    return out


def write_jsonl(path: Path, records: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(r, ensure_ascii=False) for r in records]
    assert len(set(lines)) == len(lines), f"{path}: duplicate records"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{path}: {len(lines)} records, {path.stat().st_size:,} bytes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, help="also write the pre-training corpus here")
    parser.add_argument("--texts", type=int, default=30_000, help="distinct texts in the corpus")
    parser.add_argument("--configs", type=Path, default=ROOT / "configs")
    args = parser.parse_args()
    if args.corpus:
        write_jsonl(args.corpus, corpus(random.Random(1), args.texts))
    write_jsonl(args.configs / "demo" / "train.jsonl", [{"messages": m} for m in demo(random.Random(2), 480)])
    write_jsonl(args.configs / "smollm2" / "dialogues.jsonl", [{"messages": m} for m in dialogues(random.Random(3), 6)])


if __name__ == "__main__":
    main()
