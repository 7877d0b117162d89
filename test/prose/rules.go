package main

import "regexp"

// verbs are those that follow a causative "has" most often.
const verbs = "keep|do|go|run|store|make|send|write|read|answer|take|wait|complete|know|find|see|use|give|end|start|stop|begin"

// A rule is one pattern that a reader has to decode, and the wording to use instead.
type rule struct {
	name    string         // short, for the finding
	pattern *regexp.Regexp // matches the words in question; a line break is a space
	except  *regexp.Regexp // matches from the same place on: what the pattern finds by mistake
	suggest string         // the wording to use
}

// rules are the patterns that were found most often. The order is that of the findings
// for one place.
var rules = []rule{
	{
		name:    "name the actor",
		pattern: regexp.MustCompile(`\b[Nn]obody\b|\b[Ss]omebody\b|\b[Ww]hoever\b|\b[Ee]verybody\b`),
		suggest: "name the process, client, user or caller: no client, another process, a caller that",
	},
	{
		name:    "a sentence has a subject",
		pattern: regexp.MustCompile(`(?:^|[.;:] )(?:Who|What|Whoever|Whatever)(?: [\w'",()-]+)+[.;:]`),
		suggest: `start with the noun: "A process that …", "The text that …"`,
	},
	{
		name:    "standard verb for tell",
		pattern: regexp.MustCompile(`\b(?:[Tt]ells?|told|telling)\b`),
		except:  regexp.MustCompile(`^\w+ (?:apart|\w+ apart|\w+ from)\b`),
		suggest: "report, print, return, log, notify or distinguish",
	},
	{
		name:    "exists or missing",
		pattern: regexp.MustCompile(`\b(?:is|are|was|were|be) (?:not |still |already |no longer )?there\b`),
		except:  regexp.MustCompile(`^\w+ (?:\w+ )*there (?:a|an|any|no)\b`),
		suggest: "exists, is present, is missing, was not found",
	},
	{
		name:    "next to, not beside",
		pattern: regexp.MustCompile(`\b[Bb]eside\b`),
		suggest: "next to, in addition to, together with, compared with",
	},
	{
		name:    "disconnected, removed or lost",
		pattern: regexp.MustCompile(`\b(?:has|have|had|is|are|was|were|be) (?:already |not )?gone\b`),
		suggest: "disconnected, removed, exited, no longer exists",
	},
	{
		name:    "repeat the noun",
		pattern: regexp.MustCompile(`\b(?:that|those) of (?:the|a|an|another|its|swtpm|libtpms|Debian)\b`),
		suggest: `"the profile's name", not "that of the profile"`,
	},
	{
		name:    "a possessive needs its noun",
		pattern: regexp.MustCompile(`\b(?:is|are|was|were) (?:not )?(?:ours|theirs|(?:another|somebody|nobody|root|swtpm|systemd|libtpms)'s)\b(?: *[.,;:)]|$)`),
		suggest: `"belongs to another process", "is our socket"`,
	},
	{
		name:    "previous, next",
		pattern: regexp.MustCompile(`\b(?:before|after) (?:this|that) one\b|\bthe one (?:before|after)\b`),
		suggest: "the previous process, the next process",
	},
	{
		name:    "no causative has",
		pattern: regexp.MustCompile(`\b(?:has|have|had) (?:the |a |an |its )?(?:[A-Za-z]+) (?:` + verbs + `)\b`),
		except:  regexp.MustCompile(`^\w+ (?:to|no|not|never|ever|been|the|a|an|its|any|just|already|also|only|one|two) (?:` + verbs + `)\b`),
		suggest: `"asks systemd to store fd", "makes the shell complete"`,
	},
	{
		name:    "because, since",
		pattern: regexp.MustCompile(`[,;] for (?:it|they|he|we|there|nobody|nothing|that would|this is|these are)\b`),
		suggest: "because, since, so that",
	},
	{
		name:    "after, not behind",
		pattern: regexp.MustCompile(`\b[Bb]ehind\b`),
		except:  regexp.MustCompile(`^\w+ (?:a|the|its) (?:key|link|symlink|symbolic link|proxy|firewall|NAT|file|driver|socket|device|seal|password)\b`),
		suggest: "after, following, later in; in the background",
	},
}

// A finding is one match of a rule.
type finding struct {
	offset int // byte offset in the text
	words  string
	rule   *rule
}

// check returns what the rules find in text, a piece of prose with spaces for line
// breaks, in the order of the rules.
func check(text string) []finding {
	var found []finding
	for i := range rules {
		r := &rules[i]
		for _, at := range r.pattern.FindAllStringIndex(text, -1) {
			if r.except != nil && r.except.MatchString(text[at[0]:]) {
				continue
			}
			found = append(found, finding{at[0], text[at[0]:at[1]], r})
		}
	}
	return found
}
