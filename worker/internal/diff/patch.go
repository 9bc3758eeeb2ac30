package diff

import (
	"fmt"
	"strings"
)

// Patch returns what has become of the files in the form of `git diff`, which `git apply`
// takes. It begins with lines that say what it is of and what was left out, and why:
// git apply takes no notice of them.
func (d *Document) Patch() []byte {
	var out, left strings.Builder
	for _, f := range d.Files {
		if why := f.LeftOut(); why != "" {
			fmt.Fprintf(&left, "# left out: %s (%s)\n", quoted("", f.Path), why)
			continue
		}
		f.write(&out)
	}
	from := d.From.Checkpoint
	if from == "" {
		from = "nothing"
	}
	head := fmt.Sprintf("# %s to %s: %s\n", from, d.To.Checkpoint, strings.ReplaceAll(d.Summary.Text, "\n", " "))
	if d.Next != nil {
		left.WriteString("# left out: further files, which begin at cursor " + *d.Next + "\n")
	}
	return []byte(head + left.String() + out.String())
}

// LeftOut returns why the changes of a file are not in a patch, or "".
func (f *File) LeftOut() string {
	switch {
	case f.Masked: // it would not apply, and git apply takes all of a patch or nothing
		return "secrets are masked in it"
	case f.Status == Renamed || f.Status == Mode:
		return ""
	case f.Kind == Directory:
		return "an empty directory"
	case f.Kind == Binary || f.Kind == Redacted:
		return string(f.Kind)
	case f.Lines == nil:
		return f.Reason
	}
	return ""
}

// write writes a file's part of a patch.
func (f *File) write(out *strings.Builder) {
	if f.Status == Type {
		f.writeType(out)
		return
	}
	from := f.Path
	if f.Status == Renamed {
		from = f.From.Path
	}
	fmt.Fprintf(out, "diff --git %s %s\n", quoted("a/", from), quoted("b/", f.Path))
	a, b := quoted("a/", from), quoted("b/", f.Path)
	switch {
	case f.Status == Added:
		fmt.Fprintf(out, "new file mode %s\n", f.To.Mode)
		a = "/dev/null"
	case f.Status == Deleted:
		fmt.Fprintf(out, "deleted file mode %s\n", f.From.Mode)
		b = "/dev/null"
	case f.From.Mode != f.To.Mode:
		fmt.Fprintf(out, "old mode %s\nnew mode %s\n", f.From.Mode, f.To.Mode)
	}
	if f.Status == Renamed {
		fmt.Fprintf(out, "similarity index 100%%\nrename from %s\nrename to %s\n", quoted("", from), quoted("", f.Path))
	}
	writeHunks(out, a, b, f.hunks)
}

// writeType writes what took another's place as git does: the one is deleted, then the
// other added.
func (f *File) writeType(out *strings.Builder) {
	a, b := quoted("a/", f.Path), quoted("b/", f.Path)
	if f.From.Mode != directoryMode {
		fmt.Fprintf(out, "diff --git %s %s\ndeleted file mode %s\n", a, b, f.From.Mode)
		writeHunks(out, a, "/dev/null", f.removed)
	}
	if f.To.Mode != directoryMode {
		fmt.Fprintf(out, "diff --git %s %s\nnew file mode %s\n", a, b, f.To.Mode)
		writeHunks(out, "/dev/null", b, f.created)
	}
}

const directoryMode = "040000"

func writeHunks(out *strings.Builder, a, b, hunks string) {
	if hunks == "" {
		return
	}
	// A name with a space ends in a tab, without which the rest of it could be a date.
	for _, name := range []*string{&a, &b} {
		if strings.Contains(*name, " ") && !strings.HasPrefix(*name, `"`) {
			*name += "\t"
		}
	}
	fmt.Fprintf(out, "--- %s\n+++ %s\n%s", a, b, hunks)
}

// quoted returns a path as git writes it: in quotes and with escapes if it has control
// characters, quotes or backslashes.
func quoted(prefix, path string) string {
	if !strings.ContainsFunc(path, func(r rune) bool { return r < ' ' || r == 0x7f || r == '"' || r == '\\' }) {
		return prefix + path
	}
	var out strings.Builder
	out.WriteString(`"` + prefix)
	for _, c := range []byte(path) {
		if i := strings.IndexByte("\a\b\t\n\v\f\r\"\\", c); i >= 0 {
			out.WriteByte('\\')
			out.WriteByte(`abtnvfr"\`[i])
		} else if c < ' ' || c == 0x7f {
			fmt.Fprintf(&out, `\%03o`, c)
		} else {
			out.WriteByte(c)
		}
	}
	out.WriteByte('"')
	return out.String()
}
