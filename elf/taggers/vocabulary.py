"""The default vocabularies, in the names of the real v3 list."""

STYLE_TAGS = (
    *("4koma", "2koma", "3koma", "5koma", "comic", "silent_comic", "segmented_comic", "sketch"),
    *("monochrome", "greyscale", "chibi", "chibi_inset", "chibi_only", "traditional_media"),
    *("parody", "style_parody", "fine_art_parody", "retro_artstyle", "official_style"),
    *("flat_color", "halftone", "halftone_background", "screentones", "outline", "white_outline"),
    *("western_comics_(style)", "1970s_(style)", "1980s_(style)", "1990s_(style)"),
    *("2000s_(style)", "nib_pen_(medium)", "manga_cover", "left-to-right_manga"),
)
"""Tags of drawn styles that the prefixes do not reach."""

NOISE_TAGS = (
    *("blush", "light_blush", "full-face_blush", "nose_blush", "ear_blush", "blush_stickers"),
    *("ahoge", "huge_ahoge", "heart_ahoge", "hair_between_eyes", "hair_intakes", "crossed_bangs"),
    *("tareme", "tsurime", "jitome", "sanpaku", "no_nose", "dot_nose", "constricted_pupils"),
    *("symbol-shaped_pupils", "virtual_youtuber", "fang", "skin_fang", "fang_out"),
    *("sweatdrop", "flying_sweatdrops", "nervous_sweating", "anger_vein", "speech_bubble"),
    *("thought_bubble", "emphasis_lines", "motion_lines", "speed_lines", "sound_effects"),
    *("musical_note", "heart", "spoken_*", "sparkle_background", "multiple_views"),
    *(":d", ":3", "^_^", ">_<", "@_@", "+_+", "o_o", "x_x", ";d", ":p", ":q", "xd"),
    *("artist_name", "signature", "watermark", "twitter_username", "patreon_username", "dated"),
    *("web_address", "artist_logo", "weibo_username", "pixiv_username", "english_text"),
    *("copyright_notice", "simple_background", "white_background", "transparent_background"),
)
"""What taggers trained on drawings see in pictures where it is not, or what no prompt wants."""

FOREST = (
    *("forest", "nature", "tree", "bare_tree", "pine_tree", "tree_stump", "tree_shade", "roots"),
    *("log", "branch", "moss", "fern", "ivy", "vines", "overgrown", "mushroom", "bush", "grass"),
    *("fog", "overcast", "rain", "stream", "river", "waterfall", "lake", "cliff", "rock"),
    *("mountain", "mountainous_horizon", "light_rays", "sunbeam", "dappled_sunlight"),
    *("falling_leaves", "autumn_leaves", "owl", "crow", "deer", "wolf", "fox", "bear", "antlers"),
)
"""The forests of the Pacific Northwest: conifers, moss and ferns, rain and fog."""

MAGIC = (
    *("magic", "magic_circle", "casting_spell", "runes", "glowing", "glowing_eyes", "glowing_hand"),
    *("glowing_weapon", "glowing_butterfly", "aura", "energy", "energy_ball", "orb"),
    *("crystal_ball", "staff", "mage_staff", "holding_staff", "wand", "holding_wand", "grimoire"),
    *("potion", "crystal", "blue_fire", "green_fire", "floating_object", "levitation"),
    *("fairy", "fairy_wings", "wizard", "witch", "pentagram"),
)

ATTIRE = (
    *("elf", "dark_elf", "pointy_ears", "long_pointy_ears", "cloak", "hooded_cloak", "hooded_cape"),
    *("cape", "hood", "hood_up", "hood_down", "tunic", "green_tunic", "robe", "white_robe"),
    *("corset", "brown_corset", "bodice", "leather", "leather_belt", "leather_boots"),
    *("leather_gloves", "vambraces", "bracer", "gauntlets", "pauldrons", "shoulder_armor"),
    *("single_pauldron", "armor", "plate_armor", "fur_trim", "circlet", "tiara", "brooch"),
    *("pendant", "braid", "side_braid", "crown_braid", "head_wreath", "flower_wreath"),
    *("feather_hair_ornament", "leaf_hair_ornament", "quiver", "bow_(weapon)"),
    *("holding_bow_(weapon)", "arrow_(projectile)", "holding_arrow", "dagger", "belt_pouch"),
    *("shawl", "pelvic_curtain", "loincloth", "cross-laced_clothes", "cross-laced_footwear"),
    *("medieval", "fantasy"),
)

REALISM = (
    *("realistic", "photorealistic", "painterly", "painting_(medium)", "acrylic_paint_(medium)"),
    *("fine_art_parody", "depth_of_field", "blurry_background", "blurry_foreground", "bokeh"),
    *("film_grain", "lens_flare", "photo_background", "portrait", "nose", "lips", "freckles"),
    *("eyelashes", "shiny_skin", "backlighting", "chromatic_aberration"),
)
"""Digital art that is nearly a photograph."""

CAPTION_TAGS = {
    "moss": "moss", "mossy": "moss", "moss-covered": "moss", "lichen": "lichen",
    "fern": "fern", "ferns": "fern", "redwood": "redwood tree", "redwoods": "redwood tree",
    "cedar": "cedar tree", "cedars": "cedar tree", "fir trees": "fir tree",
    "conifer": "conifer tree", "conifers": "conifer tree", "evergreen": "evergreen tree",
    "evergreens": "evergreen tree", "pine trees": "pine tree", "forest": "forest",
    "woodland": "forest", "undergrowth": "undergrowth", "driftwood": "driftwood",
    "mist": "mist", "misty": "mist", "fog": "fog", "foggy": "fog", "drizzle": "drizzle",
    "stream": "stream", "creek": "stream", "waterfall": "waterfall",
    "glowing": "glowing", "runes": "runes", "spell": "casting spell",
    "staff": "staff", "cloak": "cloak", "tunic": "tunic", "leather armor": "leather armor",
    "leather bracers": "bracer", "circlet": "circlet", "embroidered": "embroidery",
    "braids": "braid", "braided": "braid", "pointed ears": "pointy ears",
    "pointy ears": "pointy ears", "freckles": "freckles",
    "photograph": "photograph", "digital painting": "digital painting",
    "cinematic": "cinematic lighting", "soft light": "soft lighting",
}  # fmt: skip
"""Words of a caption, and the tags that they give."""
