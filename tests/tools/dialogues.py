"""Doctor-patient dialogues for configs/smollm2.yaml, put together from this file's own sentences.

Imported by make_corpus.py. The doctor asks one or two questions, gives simple self-care and says when to
be seen at once; no doses, no diagnoses, no promise. It is training data for a demonstration, not advice.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

Message = dict[str, str]


@dataclass(frozen=True)
class Case:
    """What one complaint needs: how a patient says it, what the doctor asks, advises and warns of."""

    name: str
    openings: list[str]
    questions: list[tuple[str, list[str]]]  # a question, and answers of a patient with nothing alarming
    advice: list[str]
    red_flags: str
    extra: tuple[str, str]  # a second question of the patient, and its answer


CASES: list[Case] = [
    Case("a cough", ["I've had a cough for {days} and it keeps me up at night.", "Doctor, I can't shake this dry cough. It's been {days}.", "My cough started {days} ago, right after a cold."],
         [("Do you have a fever or any trouble breathing?", ["No fever, and I can breathe fine.", "No, neither. Just the cough."]), ("Are you bringing anything up when you cough?", ["Only a little clear mucus.", "No, it's dry."])],
         ["Warm drinks and a spoonful of honey can soothe the throat", "keep the air in your bedroom from getting too dry", "stay away from smoke"],
         "you become short of breath, cough up blood, have chest pain, or it lasts longer than three weeks", ("Can I still go to work?", "If you feel well enough, yes. Cover your mouth when you cough and wash your hands often.")),
    Case("a sore throat", ["My throat has been sore for {days}.", "It hurts to swallow, and it has for {days}.", "I woke up with a very sore throat."],
         [("Do you have a fever, or swollen glands in your neck?", ["No fever, I checked this morning.", "My neck feels normal."]), ("Can you swallow liquids?", ["Yes, it just hurts a bit.", "Yes, soup goes down well."])],
         ["Rest your voice and drink plenty of fluids", "gargle with warm salt water a few times a day", "cold or soft foods may be easier to swallow"],
         "you can't swallow fluids, your voice becomes muffled, you have trouble breathing, or it isn't better within a week", ("Do I need antibiotics?", "Most sore throats are caused by viruses, and antibiotics don't help with those. If it doesn't settle, we can examine you and do a swab.")),
    Case("a headache", ["I've been getting headaches in the afternoon for {days}.", "My head has been aching for {days}.", "I have a dull headache that comes back every day."],
         [("Did it start suddenly, or come on slowly?", ["Slowly, over a few hours.", "It builds up during the day."]), ("Have you noticed any change in your vision, speech or strength?", ["No, nothing like that.", "No, I feel normal otherwise."])],
         ["Drink enough water and don't skip meals", "take a short break from the screen every hour", "keep a diary of the headaches so we can look for a pattern"],
         "a headache is sudden and severe, comes with a stiff neck, fever, weakness or confusion, or follows a blow to the head", ("Could it be my eyes?", "It could be part of it. An eye test is a sensible step, especially if you squint at the screen.")),
    Case("back pain", ["I hurt my lower back lifting a box {days} ago.", "My back has been stiff and painful for {days}.", "My lower back hurts whenever I bend."],
         [("Does the pain travel down your leg, or do you feel any numbness?", ["No, it stays in my back.", "No numbness at all."]), ("Any trouble with your bladder or bowels?", ["No, everything is normal.", "No, nothing like that."])],
         ["Stay gently active, since long bed rest slows recovery", "use a warm pack for short periods", "bend your knees when you lift and keep the load close"],
         "you feel numbness between your legs, weakness in a leg, lose control of your bladder or bowels, or develop a fever", ("Do I need an X-ray?", "Usually not for a simple strain. If it isn't improving in a few weeks, we'll examine you again and decide together.")),
    Case("a sprained ankle", ["I twisted my ankle playing football {days} ago.", "I stepped off a curb and rolled my ankle.", "My ankle is swollen since I slipped on the stairs."],
         [("Can you put weight on it and take a few steps?", ["Yes, with a limp.", "I can walk slowly."]), ("Does it hurt when you press on the bone itself?", ["No, more around it.", "Not on the bone, just below it."])],
         ["Rest it and keep it raised when you sit", "put a cold pack wrapped in a towel on it for short periods", "begin gentle movement as soon as it is comfortable"],
         "you can't take four steps, the foot looks out of shape, or it turns cold or numb", ("When can I play again?", "When you can hop and turn without pain. For a mild sprain that is often a few weeks, so build up slowly.")),
    Case("heartburn", ["I get a burning feeling in my chest after dinner.", "I've had heartburn for {days}.", "Acid comes up into my throat when I lie down."],
         [("Does it come on with exercise, or spread to your arm or jaw?", ["No, only after I eat.", "No, just after heavy meals."]), ("Any trouble swallowing, or weight loss you can't explain?", ["No, neither.", "No, my weight is the same."])],
         ["Eat smaller meals and leave a few hours before lying down", "raise the head of your bed a little", "notice which foods set it off, such as fried or spicy ones"],
         "chest pain comes with sweating, breathlessness or pain in the arm or jaw, food gets stuck, or you vomit blood", ("Is coffee a problem?", "For some people, yes. Try leaving it out for a week or two and see if there is a difference.")),
    Case("trouble sleeping", ["I haven't slept well for {days}.", "I lie awake until two or three every night.", "I wake up at four and can't get back to sleep."],
         [("How is your mood, and is anything worrying you?", ["Work is stressful, but my mood is all right.", "I'm a little tense, nothing more."]), ("How much coffee do you drink, and how late?", ["Three cups, the last one at five.", "One after dinner, I'm afraid."])],
         ["Get up at the same time every day, weekends too", "have your last coffee before noon", "leave the phone outside the bedroom and keep the room cool and dark"],
         "you feel hopeless, nod off while driving, or someone notices that you stop breathing in your sleep", ("Should I take sleeping pills?", "They're rarely the first step, because they can cause dependence. Changing the routine works better in the long run, and we can talk about further help if it doesn't.")),
    Case("a rash", ["I've had an itchy rash on my arms for {days}.", "Red spots appeared on my legs after gardening.", "My skin is itchy and red behind the knees."],
         [("Have you used a new soap, cream or medicine?", ["A new washing powder, now that you mention it.", "I changed my shower gel last week."]), ("Do you have a fever, or any swelling of the face?", ["No, just the itch.", "No, I feel fine."])],
         ["Stop using the new product for now", "use a plain moisturizer twice a day", "keep your nails short and try not to scratch"],
         "your lips or face swell, you have trouble breathing, the rash blisters, or it spreads quickly with a fever", ("Is it contagious?", "It looks more like an irritation, and that isn't contagious. If it changes or spreads, let us look at it.")),
    Case("a stomach bug", ["I've been throwing up since last night.", "My stomach is upset and I've had diarrhea for {days}.", "I think I ate something bad. I feel sick."],
         [("Are you able to keep small sips of water down?", ["Yes, if I drink slowly.", "Small sips stay down."]), ("Is there any blood, or strong pain in one place?", ["No blood, just cramps.", "No, the cramps come and go."])],
         ["Take small sips often, and an oral rehydration drink if you can", "eat plain food when you feel like it", "wash your hands well so that nobody else catches it"],
         "you can't keep fluids down for a day, there is blood, you have severe belly pain, or you feel faint and pass very little urine", ("When may I eat normally?", "As soon as you're hungry. Start with plain things such as rice, toast or bananas.")),
    Case("a child's fever", ["My daughter is four and has had a fever since last night.", "My son feels hot and he's off his food.", "Our little boy, he's three, has a temperature."],
         [("Is the child drinking, and passing urine as usual?", ["Yes, drinking well.", "Yes, with a bit of coaxing."]), ("Is there a rash, a stiff neck, or trouble breathing?", ["No, none of those.", "No, just a runny nose."])],
         ["Offer drinks often", "dress the child lightly and let them rest", "check on them during the night"],
         "the child is hard to wake, breathes fast, has a rash that doesn't fade when pressed, has a fit, or the fever lasts more than a few days", ("Should I use a cold bath?", "No, a cold bath only makes a child uncomfortable. Light clothes and drinks are better.")),
    Case("hay fever", ["My nose runs and my eyes itch every spring.", "I've been sneezing for {days}.", "As soon as the grass flowers, my eyes water."],
         [("Do you wheeze or feel tight in the chest?", ["No, only the nose and the eyes.", "No, my breathing is fine."]), ("Is it worse outdoors?", ["Yes, especially in the morning.", "Yes, when the grass is cut."])],
         ["Keep the windows closed when the pollen count is high", "rinse your face and change clothes after being outside", "ask the pharmacist which antihistamine suits you"],
         "you wheeze, feel short of breath, or the symptoms stop you from sleeping", ("Will it go away with age?", "It often becomes milder, but that's hard to predict. If it troubles you each year, we can talk about testing.")),
    Case("a small burn", ["I touched the oven and burned my hand.", "I spilled hot tea on my arm.", "I burned my finger on a pan an hour ago."],
         [("How large is it, and has it blistered?", ["Smaller than a coin, with a small blister.", "It's small and just red."]), ("Have you cooled it?", ["Only for a minute.", "A little, under the tap."])],
         ["Hold it under cool running water for about twenty minutes", "take off any ring near it", "cover it loosely with a clean, non-stick dressing and leave blisters alone"],
         "the burn is larger than your palm, deep, or on the face or a joint, or shows pus or spreading redness", ("Should I put butter on it?", "No, please don't. Butter and ice can both harm the skin.")),
    Case("a cut", ["I cut my finger with a kitchen knife.", "I scraped my leg on a rusty fence.", "I cut my palm on broken glass."],
         [("Has the bleeding stopped, and can you move and feel everything?", ["Yes, after I pressed on it.", "It stopped, and I can move it normally."]), ("When was your last tetanus shot?", ["I'm not sure, maybe ten years ago.", "I can't remember."])],
         ["Rinse it well with clean running water", "cover it with a clean dressing and change that daily", "call us so we can check whether you need a tetanus booster"],
         "it gapes, won't stop bleeding after ten minutes of pressure, something is stuck in it, or it turns red, hot and swollen", ("Can I shower with it?", "Yes, a short shower is fine. Pat it dry and put on a fresh dressing.")),
    Case("tiredness", ["I'm tired all the time, even after a full night's sleep.", "I've had no energy for {days}.", "I fall asleep on the couch every evening."],
         [("Have you lost weight, or had fevers or night sweats?", ["No, none of that.", "No, my weight is steady."]), ("How are your sleep and your mood?", ["I go to bed late, but my mood is fine.", "I sleep six hours, and I'm a bit stressed."])],
         ["Aim for a regular bedtime", "take a walk in daylight every day", "come in for a blood test, so that we can look for common causes such as low iron"],
         "you're breathless, have chest pain, faint, or feel so low that you can't cope", ("Should I take vitamins?", "Let's wait for the blood test. Then we'll know whether you're short of anything.")),
    Case("an earache", ["My left ear has been hurting for {days}.", "My ear feels blocked and sore after swimming.", "My ear aches, and I hear less on that side."],
         [("Is there any discharge, or a fever?", ["No discharge and no fever.", "No, just the ache."]), ("Have you put anything in the ear?", ["I tried a cotton swab.", "Only a cotton swab yesterday."])],
         ["Leave cotton swabs out of the ear", "keep it dry, so no swimming for now", "hold a warm cloth against it for comfort"],
         "you have swelling behind the ear, a high fever, severe dizziness, weakness in your face, or sudden loss of hearing", ("May I fly tomorrow?", "It may be painful when the pressure changes. Let us look in the ear first, if you can come today.")),
    Case("knee pain", ["My knee hurts when I climb stairs.", "My knee has been sore since a long run {days} ago.", "My knee is stiff in the morning."],
         [("Is it swollen, red or hot?", ["A bit puffy, not red.", "No, it looks normal."]), ("Does it lock or give way?", ["No, it only hurts.", "No, it feels steady."])],
         ["Cut down on running and stairs for a week or two", "try cycling or swimming in the meantime", "exercises for the thigh muscles help to protect the knee"],
         "the knee is hot and very swollen, you can't bend it or put weight on it, or you have a fever", ("Is it arthritis?", "It's too early to say. An examination will tell us more, so please book a visit if it doesn't settle.")),
    Case("dizziness", ["I feel dizzy when I stand up.", "The room spins when I roll over in bed.", "I've had dizzy spells for {days}."],
         [("Have you fainted, or had weakness or trouble speaking?", ["No, it passes in a few seconds.", "No, nothing like that."]), ("Do you take any medicines?", ["Only a blood pressure tablet.", "Just something for my blood pressure."])],
         ["Stand up slowly and sit down when it starts", "drink enough through the day", "keep taking your medicine, and let us review it together this week"],
         "you faint, have chest pain, a severe headache, double vision, or weakness on one side", ("May I drive?", "Please don't drive until we know the cause and the spells have stopped.")),
    Case("red eyes", ["My eyes are red and itchy.", "My right eye has been sticky for {days}.", "My eye is red since this morning."],
         [("Is your vision blurred, or does light hurt?", ["No, I can see well.", "No, only the itch."]), ("Do you wear contact lenses?", ["No, just reading glasses.", "I do, but I've left them out."])],
         ["Clean the lids with cooled boiled water", "wash your hands often and use your own towel", "leave contact lenses out until the eye is well"],
         "your vision changes, light hurts, the pain is strong, or something got into the eye", ("Is it contagious?", "It may be, if it's an infection. Clean hands and separate towels are the best protection.")),
    Case("worry about blood pressure", ["My blood pressure was high at the pharmacy.", "I measured my blood pressure at home and it seemed high.", "My father had high blood pressure, and I'm worried about mine."],
         [("Do you have chest pain, a severe headache or changes in vision?", ["No, I feel well.", "No, nothing at all."]), ("Have you measured it more than once?", ["Just the one time.", "Only once, after walking fast."])],
         ["Measure it sitting quietly, twice a day for a week, and write it down", "use less salt and move a little more every day", "bring the notes with you, and we'll look at them together"],
         "you have a very high reading with chest pain, breathlessness, confusion, weakness or trouble seeing", ("Will I need tablets?", "Perhaps, perhaps not. It depends on the average over the week and on your other risks.")),
    Case("stress", ["I feel on edge all the time because of work.", "My heart races before every meeting.", "I've been so stressed for {days} that I snap at my family."],
         [("Are you sleeping and eating?", ["More or less, though I wake up early.", "I eat, but I sleep badly."]), ("Do you ever think of harming yourself?", ["No, never.", "No, not at all."])],
         ["Plan a short walk or some other exercise each day", "try slow breathing for a few minutes when you feel tense", "tell one person you trust how you feel"],
         "you think about harming yourself, have chest pain, or can't manage your day any more", ("Would talking to somebody help?", "Yes, talking therapies work well for this. I can give you the contacts today.")),
    Case("an insect bite", ["A wasp stung me on the hand.", "I have a mosquito bite that is very swollen.", "I found a tick on my leg and pulled it out."],
         [("Do you have trouble breathing, or swelling of the lips or tongue?", ["No, only around the bite.", "No, it's just sore there."]), ("Is the redness growing?", ["No, it's about the same.", "A little yesterday, not today."])],
         ["Wash it with soap and water", "put a cold cloth on it to ease the swelling", "mark the edge of the redness with a pen so you can see if it grows"],
         "you have trouble breathing, feel faint, your face swells, or a growing ring or a fever appears in the next weeks", ("How long will it itch?", "Usually a few days. Try not to scratch, so that it doesn't get infected.")),
    Case("constipation", ["I haven't been able to go to the toilet properly for {days}.", "I've been constipated since I came back from my trip.", "My stomach feels bloated and I'm constipated."],
         [("Is there blood, severe pain or vomiting?", ["No, I only feel bloated.", "No, none of these."]), ("How much do you drink, and do you eat fruit and vegetables?", ["Not enough of either, I think.", "I mostly had bread and cheese lately."])],
         ["Drink more water through the day", "add fruit, vegetables and whole grains step by step", "take a walk daily and don't put off going"],
         "you have severe pain, vomiting, blood, weight loss, or the change lasts more than a few weeks", ("Are laxatives safe?", "For a short time, many are. Ask the pharmacist which one suits you, and come in if you need it for more than a week.")),
    Case("a nosebleed", ["My nose has bled three times this week.", "My nose started to bleed while I was cooking.", "I get a nosebleed almost every winter morning."],
         [("Do you take blood thinners?", ["No, nothing.", "No, no medicines."]), ("How long does the bleeding last?", ["About five minutes.", "A few minutes at most."])],
         ["Sit up, lean forward and pinch the soft part of the nose for ten minutes without letting go", "breathe through your mouth meanwhile", "keep the air in your room from getting too dry"],
         "it doesn't stop after twenty minutes, is very heavy, follows a head injury, or you feel faint", ("Should I tilt my head back?", "No, then the blood runs down your throat. Lean a little forward.")),
    Case("quitting smoking", ["I want to stop smoking, but I've failed twice.", "I smoke a pack a day and would like to quit.", "How do I stop smoking? I've smoked for ten years."],
         [("When do you want to smoke the most?", ["With my morning coffee.", "In breaks at work."]), ("What made it hard the last time?", ["I got nervous and hungry.", "Everyone around me smoked."])],
         ["Choose a day to stop and tell your friends", "change the habits that go with it, such as the coffee break", "nicotine patches or gum roughly double the chance, so ask us or the pharmacist"],
         "you feel very low, or have chest pain or a cough with blood", ("What if I slip?", "One cigarette isn't a failure. Look at what led to it, and go on from there.")),
]

DAYS = ["two days", "three days", "four days", "five days", "about a week", "a few days"]
SORRY = ["I'm sorry you're dealing with that.", "Thank you for telling me.", "That sounds unpleasant.", "I see, thanks for coming in.", "I understand.", "Let's look at this together."]
CALM = ["That's reassuring.", "Good, that is a reassuring sign.", "Good, then we can begin with simple steps."]
NOTED = ["Thank you, that helps.", "All right, good to know.", "I see.", "Thanks, that helps me to advise you."]
FLAG = ["Please get seen right away if {flags}.", "Seek care at once if {flags}.", "Come in straight away, or call the emergency number, if {flags}.", "Get help without delay if {flags}."]
THANKS = [("Thank you, doctor.", "You're welcome. Take care, and call us if you're unsure."), ("That helps a lot. Thank you.", "I'm glad. I hope you feel better soon."),
          ("All right, I'll do that.", "Good. Let me know how it goes."), ("Thanks, I feel calmer now.", "That's good to hear. We're here if anything changes.")]


def answer_to(rng: random.Random, said: str) -> str:
    """What the doctor says first: relieved only where the patient denied something."""
    return rng.choice(CALM if said.startswith(("No,", "No ")) else NOTED)


def dialogue(rng: random.Random, case: Case) -> list[Message]:
    """One consultation: 2 to 5 exchanges."""
    say = lambda text: text.replace("{days}", rng.choice(DAYS))
    turns: list[str] = [say(rng.choice(case.openings))]
    questions = rng.sample(case.questions, rng.choice([1, 1, 2]))
    for i, (question, answers) in enumerate(questions):
        turns.append(f"{rng.choice(SORRY)} {question}" if i == 0 else f"{answer_to(rng, turns[-1])} {question}")
        turns.append(rng.choice(answers))
    steps = list(case.advice)
    rng.shuffle(steps)
    steps = steps[: rng.choice([2, 3, 3])]
    lines = ". ".join(s[0].upper() + s[1:] for s in steps)
    turns.append(f"{answer_to(rng, turns[-1])} {lines}. {rng.choice(FLAG).format(flags=case.red_flags)}")
    if rng.random() < 0.4:
        turns += [case.extra[0], case.extra[1]]
    if rng.random() < 0.35:
        turns += list(rng.choice(THANKS))
    return [{"role": "user" if i % 2 == 0 else "assistant", "content": t} for i, t in enumerate(turns)]


def dialogues(rng: random.Random, each: int) -> list[list[Message]]:
    """`each` distinct dialogues per complaint, shuffled."""
    out: list[list[Message]] = []
    for case in CASES:
        made: list[list[Message]] = []
        while len(made) < each:
            d = dialogue(rng, case)
            if d not in made:
                made.append(d)
        out += made
    rng.shuffle(out)
    return out
