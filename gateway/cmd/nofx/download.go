package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"nofx.dev/gateway/api"
)

func (a *app) artifactDownloadCommand() *cobra.Command {
	var output string
	c := &cobra.Command{
		Use:   "download ARTIFACT",
		Short: "Download an artifact and verify it",
		Long: `Download an artifact to a file of its name, or of the one given by -o: a name that is a
path, begins with a dot or is otherwise no plain file name is not taken. What
arrived of a transfer that broke is kept beside it, as FILE.SHA256.part with the
first digits of the file's SHA-256, and gone on from. The file gets its name once
its SHA-256 is right; a file that is there already is never replaced by another.
With "-o -", standard output gets the bytes once their SHA-256 is right.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			return a.downloadArtifact(cmd.Context(), client, args[0], output)
		},
	}
	a.outputFlag(c, &output)
	return c
}

// toOutput is the name for standard output in place of a file.
const toOutput = "-"

// outputFlag adds the flag for the file that a command writes.
func (a *app) outputFlag(c *cobra.Command, output *string) {
	c.Flags().StringVarP(output, "output", "o", "", "file to write, - for standard output")
	fileFlag(c, "output")
	c.PreRunE = func(*cobra.Command, []string) error {
		if *output == toOutput && a.json {
			return usagef("both -o - and --json write to standard output; give one of them")
		}
		return nil
	}
}

// downloadArtifact downloads an artifact to a file, by default of its name, and answers
// with the artifact. Standard output gets the bytes once all of them are there and verified:
// what reads them cannot take any back.
func (a *app) downloadArtifact(ctx context.Context, client *api.Client, id, output string) error {
	if output != toOutput {
		f, raw, err := a.downloadTo(ctx, client, id, &output)
		if err != nil {
			return err
		}
		return a.answer(raw, func(w io.Writer) { downloaded(w, output, f) })
	}
	folder, err := os.MkdirTemp("", "nofx-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	file := filepath.Join(folder, "content")
	f, _, err := a.downloadTo(ctx, client, id, &file)
	if err != nil {
		return err
	}
	content, err := os.Open(file)
	if err != nil {
		return err
	}
	defer content.Close()
	if err := a.foreign(false, func(w io.Writer) error {
		_, err := io.Copy(w, content)
		return err
	}); err != nil {
		return err
	}
	downloaded(a.errOut, f.Name, f)
	return nil
}

func downloaded(w io.Writer, name string, f api.Artifact) {
	fmt.Fprintf(w, "%s, %s, SHA-256 verified\n", clean(name), size(f.SizeBytes))
}

// downloadTo downloads an artifact to a file; if that is "", to one of the artifact's name.
func (a *app) downloadTo(ctx context.Context, client *api.Client, id string, file *string) (api.Artifact, []byte, error) {
	for try := 1; ; try++ {
		got, raw, err := call[api.ArtifactAnswer](client.GetArtifact(ctx, id, nil))
		f := got.Artifact
		if err == nil && *file == "" {
			*file, err = localName(f.Name)
		}
		if err == nil {
			err = a.download(ctx, f, *file)
		}
		var broken brokenTransfer
		if _, stalled := errors.AsType[*stalledError](err); !errors.As(err, &broken) || stalled || try == maxTries || ctx.Err() != nil {
			return f, raw, err
		}
		if err := a.pause(ctx, jitter(200*time.Millisecond<<try)); err != nil {
			return f, raw, err
		}
	}
}

// localName returns the name for a local file with the content of an artifact. The author
// of the artifact chose its name, so it is used only if it is harmless: not a path, a
// hidden file, an option or a device, and without invisible characters.
func localName(name string) (string, error) {
	stem, _, _ := strings.Cut(strings.ToUpper(name), ".")
	switch {
	case name == "" || len(name) > 200 || !utf8.ValidString(name) || strings.ContainsFunc(name, hidden):
	case strings.ContainsAny(name, `/\:`) || strings.ContainsAny(name[:1], ".- ") || strings.ContainsAny(name[len(name)-1:], ". "):
	case device.MatchString(stem):
	default:
		return name, nil
	}
	return "", usagef("the artifact's name %q is not allowed as a file name; give another with -o", name)
}

// device matches the names of Windows devices, with any ending.
var device = regexp.MustCompile(`^(?:CON|PRN|AUX|NUL|(?:COM|LPT)[0-9])$`)

// brokenTransfer is a transfer that may fare better.
type brokenTransfer struct{ error }

func (b brokenTransfer) Unwrap() error { return b.error }

// download writes the bytes of f to a file and continues a partial download.
func (a *app) download(ctx context.Context, f api.Artifact, file string) error {
	switch sum, _, err := digestOfFile(file); {
	case err == nil && sum == f.Sha256:
		return nil
	case err == nil:
		return usagef("%s exists with other content; give another name with -o", file)
	case !errors.Is(err, os.ErrNotExist):
		return err
	}
	part := fmt.Sprintf("%s.%.16s.part", file, f.Sha256) // a name that no other content has
	out, err := openPart(part)
	if err != nil {
		return err
	}
	defer out.Close()
	if err := a.fetch(ctx, f, out); err != nil {
		return err
	}
	if _, err := out.Seek(0, io.SeekStart); err != nil {
		return err
	}
	sum, n, err := digestOf(out)
	if err != nil {
		return err
	}
	if sum != f.Sha256 {
		return errors.Join(fmt.Errorf("the download has %s and the SHA-256 %s, not %s; it was discarded", count(n, "byte"), sum, f.Sha256), os.Remove(part))
	}
	if err := out.Close(); err != nil {
		return err
	}
	return os.Rename(part, file)
}

// openPart opens the file of a partial download, or makes it. It does not follow links and
// does not write to a file with a second name, since others may write to the folder.
func openPart(part string) (*os.File, error) {
	f, err := os.OpenFile(part, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if !errors.Is(err, os.ErrExist) {
		return f, err
	}
	was, err := os.Lstat(part)
	if err != nil {
		return nil, err
	}
	if !was.Mode().IsRegular() {
		return nil, usagef("%s exists and is not a regular file; remove it, or give another name with -o", part)
	}
	if f, err = os.OpenFile(part, os.O_RDWR, 0); err != nil {
		return nil, err
	}
	is, err := f.Stat()
	switch {
	case err != nil:
	case !os.SameFile(was, is):
		err = fmt.Errorf("%s changed while it was opened", part)
	case links(is) > 1:
		err = usagef("%s exists and has a second name (a hard link); remove it, or give another name with -o", part)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// fetch brings out, which holds the beginning of f, to its full size.
func (a *app) fetch(ctx context.Context, f api.Artifact, out *os.File) error {
	have, err := out.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	if have > f.SizeBytes {
		have = 0
	}
	if have == f.SizeBytes {
		return nil
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, deref(f.URL), nil)
	if err != nil {
		return err
	}
	if have > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", have))
	}
	resp, err := a.exchange(req)
	if err != nil {
		return brokenTransfer{fmt.Errorf("download: %w", cause(err))}
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusPartialContent:
	case http.StatusOK:
		have = 0
	default:
		return brokenTransfer{fmt.Errorf("download: the storage answered %s", resp.Status)}
	}
	if _, err := out.Seek(have, io.SeekStart); err != nil {
		return err
	}
	if err := out.Truncate(have); err != nil {
		return err
	}
	p := a.transfer("down", f.SizeBytes, have)
	defer p.end()
	n, err := io.Copy(out, io.TeeReader(io.LimitReader(resp.Body, f.SizeBytes-have+1), p))
	if err != nil {
		return brokenTransfer{fmt.Errorf("download: %w", cause(err))}
	}
	if have+n < f.SizeBytes {
		return brokenTransfer{fmt.Errorf("download: the storage sent %d of %s", have+n, count(f.SizeBytes, "byte"))}
	}
	return nil
}
