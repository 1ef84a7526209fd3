"""Owns the words: slot-filler lists, the pseudo-word maker and the train/held-out split of both.

Knows nothing of requests, replies or models. Every list was written by hand for this
project. A filler is held out of training when its hash falls into the held-out tenth, so
the split needs no second list and does not move when a list grows.
"""

import hashlib
import random

HELD_OUT_ONE_IN = 10


def is_held_out(filler: str) -> bool:
    """Whether a filler belongs to the held-out tenth (never used for training)."""
    digest = hashlib.sha256(("switchyard:" + filler.lower()).encode()).digest()
    return digest[0] % HELD_OUT_ONE_IN == 0


def _words(text: str) -> list[str]:
    return [w.strip() for w in text.replace("\n", " ").split(",") if w.strip()]


NAMES = _words("""
Anna, Ben, Carla, David, Emma, Frank, Grace, Henry, Ivy, Jack, Kate, Liam, Mia, Noah, Olivia, Peter, Quinn,
Rosa, Sam, Tina, Uma, Victor, Wendy, Xavier, Yara, Zoe, Aisha, Boris, Chloe, Dmitri, Elena, Fatima, George,
Hana, Igor, Jasmine, Kenji, Lucia, Mateo, Nadia, Omar, Priya, Rafael, Sofia, Tariq, Ursula, Vera, Walter,
Yusuf, Zara, Amir, Bridget, Carlos, Deepa, Erik, Fiona, Gustav, Helga, Ingrid, Joao, Karim, Leila, Marek,
Nina, Oskar, Paula, Rashid, Svetlana, Tomas, Umberto, Valeria, Wolfgang, Ximena, Yoko, Zeynep, Alice, Bob,
Charlie, Daisy, Edward, Freya, Gavin, Harriet, Isaac, Julia, Kevin, Laura, Martin, Nora, Oliver, Penny,
Richard, Sarah, Thomas, Vivian, William, Arjun, Bella, Cedric, Dana, Esther, Felix, Gloria, Hugo, Irene,
Jonas, Klara, Leo, Magda, Nils, Ophelia, Pablo, Ruth, Stefan, Theresa, Viktor, Wanda, Yasmin, Zack, Agnes,
Bruno, Celia, Dominic, Edith, Fabio, Gerda, Hakim, Ines, Jamal, Kira, Lorenzo, Maya, Nathan, Otto, Pia,
Ronan, Saskia, Theo, Ute, Vince, Willow, Yannick, Zelda, Andrew, Beth, Colin, Diana, Eric, Florence, Greta,
Howard, Isla, Joan, Kurt, Lena, Maurice, Naomi, Owen, Patrick, Rebecca, Simon, Tessa, Vanessa, Wilma, Adele,
Basil, Cora, Derek, Elsa, Fergus, Gwen, Hector, Imogen, Jerome, Keira, Lydia, Murray, Nigel, Olga, Percy
""")
SURNAMES = _words("""
Miller, Novak, Schmidt, Okafor, Rossi, Tanaka, Garcia, Kowalski, Jensen, Dubois, Ivanov, Patel, Nguyen, Haddad,
O'Brien, Larsen, Weber, Moreau, Costa, Fischer, Walker, Turner, Hughes, Baker, Cooper, Morgan, Reid, Shaw,
Bennett, Carter, Dixon, Foster, Graham, Hayes, Lambert, Mason, Norris, Palmer, Quincy, Saunders, Thornton
""")
RELATIVES = _words("""
mum, dad, mom, grandma, grandpa, my sister, my brother, my wife, my husband, my boss, my aunt, my uncle,
my daughter, my son, my neighbour, the dentist, the doctor, the plumber, the landlord, the bank, the school,
the office, the garage, the vet, the babysitter, my cousin, my manager, the electrician, the hairdresser,
the insurance company, my partner, my flatmate, the accountant, the gardener, my teacher, the team, the kids,
my nephew, my niece, the lawyer, the nurse, my colleague, my friend, the hotel, the pharmacy, the florist
""")
OBJECTS = _words("""
keys, passport, laundry, parcel, package, suitcase, bike, car, printer, laptop, charger, phone, camera, umbrella,
jacket, coat, boots, shoes, dress, suit, shirt, curtains, carpet, sofa, table, chair, lamp, mirror, window,
fridge, oven, dishwasher, washing machine, boiler, garden hose, lawn mower, ladder, toolbox, drill, paint,
tickets, invoice, contract, report, slides, spreadsheet, essay, homework, library book, prescription, glasses,
guitar, piano, violin, drum kit, tent, sleeping bag, backpack, birthday cake, birthday card, present, flowers,
medicine, vitamins, painkillers, eye drops, rent, deposit, rubbish, recycling, compost bin, bins, letters,
hamster cage, fish tank, cat food, dog lead, bird feeder, tomato plants, roses, hedge, lawn, gutter, roof,
tyres, oil, brakes, windscreen, number plate, spare key, memory card, headphones, keyboard, monitor, router,
photo album, picture frame, candles, fire alarm, smoke detector, light bulb, batteries, extension lead, toaster
""")
GROCERIES = _words("""
milk, eggs, bread, butter, cheese, yoghurt, apples, bananas, oranges, lemons, grapes, pears, strawberries,
tomatoes, potatoes, onions, garlic, carrots, peppers, cucumbers, spinach, lettuce, broccoli, mushrooms, rice,
pasta, flour, sugar, salt, pepper, olive oil, vinegar, honey, jam, peanut butter, coffee, tea, orange juice,
apple juice, sparkling water, beer, red wine, white wine, chicken, beef, salmon, tuna, ham, bacon, sausages,
tofu, beans, lentils, chickpeas, oats, cereal, crackers, biscuits, chocolate, ice cream, crisps, nuts, raisins,
toilet paper, kitchen roll, washing powder, dish soap, sponges, bin bags, toothpaste, shampoo, soap, razors,
plasters, nappies, cat litter, dog food, candles, matches, batteries, foil, cling film, basil, parsley, ginger,
cinnamon, vanilla, yeast, coconut milk, soy sauce, mustard, ketchup, mayonnaise, pickles, olives, avocados
""")
QUANTITIES = _words("""
some, a bottle of, two bottles of, a bag of, a kilo of, half a kilo of, a pack of, three packs of, a box of,
a jar of, a few, a dozen, more, a litre of, six, a tin of, two, plenty of
""")
PLACES = _words("""
the airport, the station, the supermarket, the library, the gym, the park, the museum, the hospital, the beach,
the town hall, the market, the cinema, the post office, the bakery, the stadium, the zoo, the church, the harbour,
the nearest petrol station, the nearest pharmacy, the nearest cash machine, the city centre, the old town, work,
home, school, the office, the university, the swimming pool, the garden centre, the hardware store, the bus stop,
the car park, the concert hall, the theatre, the castle, the lighthouse, the campsite, the ferry terminal
""")
CITIES = _words("""
London, Paris, Berlin, Madrid, Rome, Vienna, Prague, Oslo, Dublin, Lisbon, Athens, Warsaw, Budapest, Helsinki,
Stockholm, Brussels, Zurich, Geneva, Milan, Naples, Porto, Seville, Lyon, Hamburg, Munich, Cologne, Krakow,
Tokyo, Osaka, Sydney, Toronto, Boston, Chicago, Denver, Seattle, Dallas, Cairo, Nairobi, Lagos, Mumbai, Delhi,
Leeds, Bristol, Glasgow, Cardiff, Galway, Bergen, Malmo, Utrecht, Ghent, Basel, Graz, Turin, Bilbao, Riga
""")
STREETS = _words("""
Baker Street, High Street, Station Road, Mill Lane, Church Road, Park Avenue, Green Lane, Queens Road,
Victoria Square, Kings Road, Elm Drive, Maple Street, Oak Avenue, Harbour Street, Castle Hill, Bridge Street
""")
EVENTS = _words("""
dentist appointment, doctor's appointment, team meeting, lunch, dinner, breakfast, coffee, job interview,
birthday party, parents' evening, haircut, yoga class, piano lesson, football practice, swimming lesson,
board meeting, project review, phone call, video call, date night, book club, choir practice, dance class,
wedding, concert, theatre trip, picnic, barbecue, car service, house viewing, driving lesson, eye test,
blood test, vet visit, gym session, running club, chess night, film night, quiz night, stand-up, workshop,
training day, budget meeting, planning session, school play, sports day, flight, train, boat trip, museum visit
""")
ROOMS = _words("""
the kitchen, the living room, the bedroom, the bathroom, the hallway, the office, the garage, the garden,
the dining room, the kids' room, the attic, the basement, the porch, the study, the guest room, the nursery,
upstairs, downstairs, the conservatory, the laundry room, the balcony
""")
ARTISTS_FIRST = _words("""
the silver, the lazy, the midnight, the golden, the velvet, the electric, the paper, the distant, the hollow,
the crimson, the gentle, the wandering, the broken, the northern
""")
ARTISTS_LAST = _words("""
foxes, rivers, engines, lanterns, sparrows, mountains, pilots, mirrors, strangers, gardens, satellites, wolves,
poets, islands, clouds, drums
""")
GENRES = _words("""
jazz, classical music, rock, some blues, folk songs, hip hop, techno, reggae, country music, opera, lullabies,
piano music, dance music, soul, punk, ambient music, film music, christmas songs, samba, swing, my workout playlist,
my favourites, the news, rain sounds, my party playlist, a podcast, the radio, something relaxing, my cooking playlist
""")
SONGS = _words("""
blue morning, river of light, the last train home, summer rain, dancing in the dark blue, over the hills,
paper boats, a thousand stars, winter song, hold the line up, little bird, stay a while, the long way round,
city lights, golden hour, walking backwards, sunday coffee, ocean eyes wide, maybe tomorrow never, quiet storm
""")
TOPICS = _words("""
the budget, the holiday, the contract, the party, the leak in the roof, the new schedule, the invoice, dinner,
the school trip, the broken window, the parking permit, the interview, the weekend, the rent, the meeting notes,
the delivery, the wedding, the garden fence, the train times, the exam results, the insurance, the project plan
""")
CHORES = _words("""
water the plants, feed the cat, walk the dog, take out the rubbish, take my pills, take my medicine, stretch,
drink some water, lock the back door, turn off the oven, empty the dishwasher, clean the bathroom, mow the lawn,
hang up the washing, change the sheets, back up my laptop, charge my phone, pay the rent, pay the electricity bill,
pay the gas bill, do the ironing, vacuum the stairs, defrost the freezer, check the tyre pressure, go for a run,
go to bed, do my homework, practise the piano, renew my passport, file my taxes, cancel my gym membership,
book a flight, book a table for four, check the mail, sign the contract, finish the report, send the invoice,
prepare the slides, pack my suitcase, return the library books, bake a cake, marinate the chicken, preheat the oven,
take the bread out of the oven, check on the soup, put the bins out, move the car, feed the fish, brush the dog,
clean the windows, sweep the patio, water the tomatoes, descale the kettle, update my password, renew the car
insurance, order new contact lenses, top up my travel card, close the windows, bring in the washing, wake the kids,
study for the exam, buy a birthday present, wrap the presents, write a thank you note, meditate, breathe deeply
""")
MESSAGES = _words("""
i'm running late, i'll be there soon, dinner is ready, happy birthday, i love you, call me back, see you tonight,
the meeting is cancelled, i'm on my way, please bring some bread, good luck today, thank you for the flowers,
i missed the bus, the keys are under the mat, we are out of milk, let's meet at the station, i got the job,
the train is delayed, can you pick up the kids, don't forget the tickets, the parcel has arrived, i'm at home now,
have a safe trip, i can't make it today, are you free this weekend, the doctor says it's fine, i've sent the report,
please feed the cat, what's for dinner, the car broke down, i need your help, we won the match, the door is open,
congratulations on the baby, i left my jacket at your place, the code is four seven one nine, wait for me outside
""")
NOTES = _words("""
the wifi password is on the fridge, the spare key is with the neighbour, parking spot is on level three,
the plumber charges sixty an hour, my locker number is forty two, grandma likes yellow roses, the bike needs new
brakes, try the soup place near work, the meeting room is on the second floor, the paint colour is called sea mist,
buy smaller screws next time, the dog weighs twelve kilos, the train leaves from platform nine, i lent the drill to
the neighbour, the gate code changed, the recipe needs less salt, ask about the discount, the window in the attic
sticks, my shoe size is forty one, the boiler was serviced, the bakery closes early, the red folder has the contracts
""")
COLOURS = _words("red, blue, green, yellow, purple, orange, pink, warm white, white, turquoise")
WEATHER_THINGS = _words("rain, snow, sunshine, wind, fog, a storm, thunder, frost, hail")
PETS = _words("cat, dog, parrot, rabbit, hamster, goldfish, tortoise, pony, kitten, puppy")
VERBS_ON_OBJECT = _words("""
clean, fix, repair, return, collect, pick up, drop off, sell, buy, check, replace, charge, pack, wash, paint,
move, order, renew, find, borrow, measure, photograph, sort out, polish, wrap, post, print, tidy up, put away,
look for, throw out, unpack, oil, dust, label, inspect, cover, water, trim, store, bring in, take back, hide, frame
""")
QUESTIONS = _words("""
how tall is the eiffel tower, why is the sky blue, who wrote hamlet, what is the meaning of life, how old is the moon,
how do you spell necessary, what does resilient mean, how many people live in spain, who won the match, tell me a story,
what is seven times eight, translate good morning into french, how do i boil an egg, what should i cook, is it far,
how far is the sun, who is the president, what is my name, where did i park, how do planes fly, do fish sleep,
what colour is a zebra, can penguins fly, how deep is the ocean, when was the wheel invented, what is a black hole,
tell me something interesting, give me some advice, what should i wear, which film should i watch, read me a poem,
how do magnets work, what is the square root of nine, who invented the telephone, define happiness, sing a song,
what is the fastest animal, how long do cats live, why do leaves fall, how do you make bread, what is in the news
""")

_ONSETS = "b br c ch cl d dr f fl g gr h j k kl l m n p pl pr qu r s sh sk sl st str t th tr v vr w y z zh".split()
_VOWELS = "a e i o u ai ea ee ie oo ou au y".split()
_CODAS = ["", "", "", "n", "r", "l", "m", "s", "t", "k", "nd", "rk", "x", "sh", "p", "b", "ng", "lf", "st", "v"]


def pseudo_word(rng: random.Random, held_out: bool) -> str:
    """A made-up word of one to three syllables, from the wanted side of the split."""
    while True:
        word = ""
        for _ in range(rng.choice((1, 2, 2, 2, 3, 3))):
            word += rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS)
        if 3 <= len(word) <= 12 and is_held_out(word) == held_out:
            return word


class Lexicon:
    """Draws fillers from one side of the split; `made_up` is the share of pseudo-words."""

    def __init__(self, rng: random.Random, held_out: bool, made_up: float):
        self.rng, self.held_out, self.made_up = rng, held_out, made_up
        self._sides: dict[int, list[str]] = {}

    def pick(self, words: list[str]) -> str:
        """One word of the list, from this side of the split."""
        side = self._sides.get(id(words))
        if side is None:
            side = [w for w in words if is_held_out(w) == self.held_out] or words
            self._sides[id(words)] = side
        return self.rng.choice(side)

    def invent(self) -> bool:
        """Whether the next filler should be a made-up one."""
        return self.rng.random() < self.made_up

    def word(self) -> str:
        """A pseudo-word."""
        return pseudo_word(self.rng, self.held_out)

    def name(self) -> str:
        """A person's name, sometimes with a surname."""
        first = self.word().capitalize() if self.invent() else self.pick(NAMES)
        if self.rng.random() < 0.12:
            last = self.word().capitalize() if self.invent() else self.pick(SURNAMES)
            return self.rng.choice((f"{first} {last}", f"Mrs {last}", f"Mr {last}", f"Doctor {last}"))
        return first

    def person(self) -> str:
        """A name or a relation."""
        return self.name() if self.rng.random() < 0.65 else self.pick(RELATIVES)

    def thing(self) -> str:
        """A household or office thing without an article."""
        if self.invent():
            return self.rng.choice((self.word(), f"{self.word()} {self.pick(OBJECTS)}", f"{self.pick(OBJECTS)} {self.word()}"))
        return self.pick(OBJECTS)

    def place(self) -> str:
        """A place one can go to."""
        r = self.rng.random()
        if r < 0.4:
            return self.pick(PLACES)
        if r < 0.6:
            return self.word().capitalize() if self.invent() else self.pick(CITIES)
        if r < 0.75:
            return f"{self.name()}'s {self.rng.choice(('house', 'flat', 'place', 'office', 'shop'))}"
        number = self.rng.choice(("", "", f"{self.rng.randint(1, 99)} "))
        if self.invent():
            return f"{number}{self.word().capitalize()} {self.rng.choice(('Street', 'Road', 'Lane', 'Avenue', 'Square'))}"
        return number + self.pick(STREETS)

    def city(self) -> str:
        """A town's name."""
        return self.word().capitalize() if self.invent() else self.pick(CITIES)
