package users

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"testing"
)

// testbed is a running `gatehouse testbed`, as it describes itself.
type testbed struct {
	ControlURL    string            `json:"control_url"`
	Issuer        string            `json:"issuer"`
	Clients       map[string]string `json:"clients"`
	CACertificate string            `json:"ca_certificate"`
	Targets       map[string]string `json:"targets"`
	Users         map[string]string `json:"users"`
}

// bed is the test bed of all tests of this package.
var bed testbed

func TestMain(m *testing.M) {
	code, err := runTests(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "testbed:", err)
		code = 1
	}
	os.Exit(code)
}

// runTests starts the test bed, which ends with its standard input: also if this process is killed.
func runTests(m *testing.M) (int, error) {
	command := exec.Command("gatehouse", "testbed")
	command.Stderr = os.Stderr
	input, err := command.StdinPipe()
	if err != nil {
		return 0, err
	}
	output, err := command.StdoutPipe()
	if err != nil {
		return 0, err
	}
	if err := command.Start(); err != nil {
		return 0, err
	}
	defer command.Wait()
	defer input.Close()
	if err := json.NewDecoder(output).Decode(&bed); err != nil {
		return 0, fmt.Errorf("it does not start: %w", err)
	}
	return m.Run(), nil
}

// send sends a request to the control API and decodes the response into result, unless that is nil.
func (b testbed) send(t *testing.T, method, path string, body, result any) {
	t.Helper()
	content, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	request, err := http.NewRequest(method, b.ControlURL+path, bytes.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("content-type", "application/json")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	if response.StatusCode >= 300 {
		t.Fatalf("%s %s: %s: %s", method, path, response.Status, answer)
	}
	if result != nil {
		if err := json.Unmarshal(answer, result); err != nil {
			t.Fatal(err)
		}
	}
}

// token returns a new access token, such as {"user": "alice", "name": "expired"}.
func (b testbed) token(t *testing.T, content map[string]any) string {
	t.Helper()
	var made struct{ Token string }
	b.send(t, "POST", "/tokens", content, &made)
	return made.Token
}

func (b testbed) addFault(t *testing.T, fault map[string]any) {
	t.Helper()
	b.send(t, "POST", "/faults", fault, nil)
}

func (b testbed) advanceClock(t *testing.T, seconds int) {
	t.Helper()
	b.send(t, "POST", "/clock", map[string]any{"seconds": seconds}, nil)
}

// codes returns the status codes of the calls of an RPC that the services received.
func (b testbed) codes(t *testing.T, method string) []string {
	t.Helper()
	var calls []struct{ Code string }
	b.send(t, "GET", "/calls?method="+method, nil, &calls)
	var found []string
	for _, call := range calls {
		found = append(found, call.Code)
	}
	return found
}

func (b testbed) reset(t *testing.T) {
	t.Helper()
	b.send(t, "POST", "/reset", nil, nil)
}
