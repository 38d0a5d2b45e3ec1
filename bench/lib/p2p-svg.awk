# SPDX-License-Identifier: Apache-2.0
# Draws bench/p2p-scale's figures as one self-contained SVG, light and dark: Time(N) / Time(1) over N, both on
# logarithmic scales; the simulated curve ("N SECONDS" per line, first file), the measured points (second file), what one source alone
# would take, and the reach.
function log10(v) { return log(v) / log(10) }
function x(n) { return 60 + log10(n) / 3 * 600 }
function y(ratio) { return 330 - log10(ratio) / log10(20) * 290 }
FILENAME == ARGV[1] { n[++nr] = $1; sim[nr] = $2; if ($1 == 1) sim_one = $2; next }
{ m[++nr_measured] = $1; t[nr_measured] = $2; if ($1 == 1) one = $2 }
END {
	if (!sim_one) {
		print "p2p-svg: the curve has no single getter" > "/dev/stderr"
		exit 1
	}
	printf "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"720\" height=\"420\" viewBox=\"0 0 720 420\" role=\"img\">\n"
	printf "<title>P2P store: time of N getters of %d MiB over links of %d Mbit/s, as a multiple of one getter's</title>\n", size, rate
	print "<style>"
	print "text{font-family:sans-serif;font-size:13px;fill:#24292f}.tick{font-size:12px;fill:#57606a}.end{text-anchor:end}.mid{text-anchor:middle}"
	print ".back{fill:#ffffff}.grid{stroke:#d8dee4;stroke-width:1;fill:none}.axis{stroke:#57606a;stroke-width:1;fill:none}"
	print ".sim{stroke:#0969da;stroke-width:2;fill:none;stroke-linejoin:round}.point{fill:#bc4c00}.naive{stroke:#57606a;stroke-width:1.5;stroke-dasharray:6 4;fill:none}.reach{stroke:#1a7f37;stroke-width:1.5;stroke-dasharray:2 3;fill:none}"
	print "@media (prefers-color-scheme: dark){text{fill:#e6edf3}.tick{fill:#9da7b3}.back{fill:#0d1117}.grid{stroke:#2a313a}.axis{stroke:#9da7b3}.sim{stroke:#58a6ff}.point{fill:#f0883e}.naive{stroke:#9da7b3}.reach{stroke:#3fb950}}"
	print "</style>"
	print "<rect class=\"back\" width=\"720\" height=\"420\"/>"
	printf "<text x=\"60\" y=\"24\">Time of N getters / time of one: %d MiB, up- and downlinks of %d Mbit/s</text>\n", size, rate
	nr_y = split("1 1.6 2 5 10 20", tick, " ")
	for (i = 1; i <= nr_y; i++) {
		printf "<path class=\"%s\" d=\"M60 %.1fH660\"/>", tick[i] == reach ? "reach" : "grid", y(tick[i])
		printf "<text class=\"tick end\" x=\"52\" y=\"%.1f\">%s</text>\n", y(tick[i]) + 4, tick[i]
	}
	nr_x = split("1 2 4 8 16 64 256 1000", tick, " ")
	for (i = 1; i <= nr_x; i++) {
		printf "<path class=\"grid\" d=\"M%.1f 40V330\"/>", x(tick[i])
		printf "<text class=\"tick mid\" x=\"%.1f\" y=\"348\">%s</text>\n", x(tick[i]), tick[i]
	}
	print "<path class=\"axis\" d=\"M60 40V330H660\"/>"
	print "<text class=\"mid\" x=\"360\" y=\"368\">getters that start together</text>"
	printf "<path class=\"naive\" d=\"M%.1f %.1fL%.1f %.1f\"/>\n", x(1), y(1), x(20), y(20)
	printf "<path class=\"sim\" d=\""
	for (i = 1; i <= nr; i++)
		printf "%s%.1f %.1f", i == 1 ? "M" : "L", x(n[i]), y(sim[i] / sim_one)
	print "\"/>"
	for (i = 1; i <= nr_measured && one; i++)
		printf "<circle class=\"point\" cx=\"%.1f\" cy=\"%.1f\" r=\"4.5\"><title>%d getters: %.2f s, %.2f x</title></circle>\n", x(m[i]), y(t[i] / one), m[i], t[i], t[i] / one
	print "<path class=\"sim\" d=\"M60 392H92\"/><text x=\"98\" y=\"396\">simulated</text>"
	print "<circle class=\"point\" cx=\"196\" cy=\"392\" r=\"4.5\"/><text x=\"208\" y=\"396\">measured</text>"
	print "<path class=\"naive\" d=\"M300 392H332\"/><text x=\"338\" y=\"396\">one source alone</text>"
	printf "<path class=\"reach\" d=\"M470 392H502\"/><text x=\"508\" y=\"396\">reach at 16: %s</text>\n", reach
	print "</svg>"
}
